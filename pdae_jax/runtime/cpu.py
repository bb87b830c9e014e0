"""Settings that make XLA's CPU programs faster and must be made before a process starts.

Measured in docs/performance.md: together 1.6 times the images a second on two cores. Accelerators
are left alone.
"""

import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pdae_jax.runtime import atomic

# Convolutions not by a library that leaves cores idle; and in bfloat16 by one that knows what the
# processor has for it. An unknown flag ends a process, and a known one may do nothing, so that
# `found_flags` tries them out.
_NO_YNN = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert")
_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm60_plugin", "jax_rocm7_plugin")
_GPU = ("/dev/nvidia[0-9]*", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")  # dxg: Windows' Linux
_TPU = ("/dev/accel*", "/dev/vfio/[0-9]*")
_MARK = "PDAE_JAX_CPU_TUNED"
_PATIENCE = 60.0  # seconds that a trial of flags may take
_FOUND = "~/.cache/pdae_jax/cpu_flags"
# Prints whether a convolution in bfloat16 has become oneDNN's.
_TRIAL = """
import jax, jax.numpy as jnp
x, kernel = jnp.ones((1, 8, 8, 16), jnp.bfloat16), jnp.ones((3, 3, 16, 16), jnp.bfloat16)
conv = lambda x, k: jax.lax.conv_general_dilated(
    x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
print("__onednn$convolution" in jax.jit(conv).lower(x, kernel).compile().as_text())
"""


def accelerator() -> bool:
    """Whether JAX may find one: a GPU's device files and its plugin, or a TPU's device files.

    A plugin and libtpu alone say nothing: they also compile for what is elsewhere.
    """
    return tpu() or _any_file(_GPU) and any(importlib.util.find_spec(name) for name in _PLUGINS)


def tpu() -> bool:
    """Whether this machine has one."""
    return _any_file(_TPU)


def _any_file(patterns: Sequence[str]) -> bool:
    return any(glob.glob(pattern) for pattern in patterns)


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
    missing = [flag for flag in found_flags() if flag.partition("=")[0] not in flags]
    if missing:
        added["XLA_FLAGS"] = " ".join([*flags.split(), *missing])
    # Huge pages for malloc: a step's buffers are otherwise faulted in 4 kB at a time.
    tunables = [environ["GLIBC_TUNABLES"]] if "GLIBC_TUNABLES" in environ else []
    added["GLIBC_TUNABLES"] = ":".join([*tunables, "glibc.malloc.hugetlb=1"])
    return added


def found_flags(file: str | None = None) -> list[str]:
    """XLA's flags for convolutions that this jaxlib and this processor have.

    Tried out in processes of their own, which takes some seconds, once for both: the answer is kept
    in `file`, but not where the trial fails without any flag too, or takes over a minute.
    """
    path = Path(os.path.expanduser(file or _FOUND))
    has_bfloat16 = sorted(instructions() & {*_BFLOAT16})
    asked = f"jaxlib {importlib.metadata.version('jaxlib')}, {has_bfloat16}"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    if asked not in known:
        found = []
        try:
            if _tried([_NO_YNN]) is not None:
                found.append(_NO_YNN)
            if has_bfloat16 and _tried([*found, _ONEDNN]):
                found.append(_ONEDNN)
            if not found and _tried([]) is None:
                return []
        except (OSError, subprocess.TimeoutExpired):
            return []
        known[asked] = found
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(path, json.dumps(known, indent=1))
        except OSError:
            pass  # a home that cannot be written: asked again next time
    return known[asked]


def instructions() -> set[str]:
    """The processor's instruction sets, in Linux's names; none where it does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return {*line.partition(":")[2].split()}


def _tried(flags: Sequence[str]) -> bool | None:
    """Whether these flags make a convolution in bfloat16 oneDNN's; None where they end it."""
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), _MARK: "1"}
    line = [sys.executable, "-P", "-c", _TRIAL]  # -P: not of files that lie in this folder
    done = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=_PATIENCE)
    return done.stdout.strip() == "True" if done.returncode == 0 else None


def restart_tuned() -> None:
    """Starts this command again, once, in place, with `environment` set; else returns."""
    added = environment()
    if added:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})
