"""Settings that make XLA's CPU programs faster and must be made before a process starts.

Measured in docs/performance.md: together 1.6 times the images a second on two cores. Accelerators
are left alone.
"""

import glob
import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

# jaxlib 0.10 sends convolutions to a library that leaves cores idle; an unknown flag ends a
# process, so only versions known to have it get it.
_CONVOLUTION = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")
_TPU = ("/dev/accel*", "/dev/vfio/[0-9]*")
_MARK = "PDAE_JAX_CPU_TUNED"


def accelerator() -> bool:
    """Whether JAX may find one: a GPU's plugin, or a TPU's device files.

    libtpu alone says nothing: it also compiles for TPUs that are elsewhere.
    """
    return any(importlib.util.find_spec(name) for name in _PLUGINS) or tpu()


def tpu() -> bool:
    """Whether this machine has one."""
    return any(glob.glob(pattern) for pattern in _TPU)


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add: {} where there may be an accelerator, or nothing to gain."""
    only_cpu = environ.get("JAX_PLATFORMS") == "cpu" or not accelerator()
    if not only_cpu or platform.system() != "Linux" or _MARK in environ:
        return {}
    added = {
        _MARK: "1",
        "JAX_PLATFORMS": "cpu",
    }  # else libtpu, if it is there, looks for a TPU aloud
    flags = environ.get("XLA_FLAGS", "")
    if (
        importlib.metadata.version("jaxlib").startswith("0.10.")
        and _CONVOLUTION.partition("=")[0] not in flags
    ):
        added["XLA_FLAGS"] = f"{flags} {_CONVOLUTION}".strip()
    # Huge pages for malloc: a step's buffers are otherwise faulted in 4 kB at a time.
    tunables = [environ["GLIBC_TUNABLES"]] if "GLIBC_TUNABLES" in environ else []
    added["GLIBC_TUNABLES"] = ":".join([*tunables, "glibc.malloc.hugetlb=1"])
    return added


def restart_tuned() -> None:
    """Starts this command again, once, in place, with `environment` set; else returns."""
    added = environment()
    if added:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})
