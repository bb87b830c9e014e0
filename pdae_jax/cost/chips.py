"""Facts of accelerators: published peaks, and descriptions of devices that need not be here."""

import functools
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np


class Chip(NamedTuple):
    """Published peaks of one device.

    flops: bfloat16 FLOP/s. bandwidth: bytes/s of its memory. memory: bytes. clock: Hz. links:
    bytes/s of all its links to other chips.
    """

    flops: float
    bandwidth: float
    memory: float
    clock: float | None = None
    links: float | None = None


# By jax.Device.device_kind, per device as JAX counts them (half a chip of v2, v3 and 7x); of GPUs
# without sparsity, and their float32 (TF32) is half of it.
CHIPS = {
    "TPU v2": Chip(22.5e12, 350e9, 8e9),
    "TPU v3": Chip(61.5e12, 450e9, 16e9),
    "TPU v4": Chip(275e12, 1228e9, 32e9),
    "TPU v5 lite": Chip(197e12, 819e9, 16e9, 1.5e9, 200e9),
    "TPU v5": Chip(459e12, 2765e9, 95e9, 1.75e9, 600e9),
    "TPU v6 lite": Chip(918e12, 1640e9, 32e9, 1.75e9, 448e9),
    "TPU7x": Chip(1153e12, 3690e9, 96e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 80e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 80e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 141e9),
}
# The names of chips in topologies such as "v5e:4x8" -> jax.Device.device_kind.
TPUS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


def chip_of(kind: str) -> Chip | None:
    """Peaks of a kind of device: published, or of a CPU measured here; None where unknown."""
    return this_machine() if kind == "cpu" else CHIPS.get(kind)


@functools.cache
def this_machine() -> Chip:
    """Measured on all cores: FLOP/s of a float32 matmul, bytes/s that a copy reads and writes."""
    a = np.random.default_rng(0).standard_normal((2048, 2048), np.float32)
    arrays = np.ones((2, 1 << 25), np.float32)
    cores = os.cpu_count() or 1
    source, target = (np.array_split(array, cores) for array in arrays)

    def fastest(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    with ThreadPoolExecutor(cores) as pool:
        bandwidth = arrays.nbytes / fastest(lambda: list(pool.map(np.copyto, target, source)))
    return Chip(
        2 * len(a) ** 3 / fastest(lambda: a @ a),
        bandwidth,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


# Without these libtpu asks the cloud's metadata server, which is not there, who it is; and it holds
# no chip that two processes could want.
EXAMPLES = "v5e:4x8, v5p:2x2x2, v6e:2x4"  # of topologies
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(topology: str) -> list[Any]:
    """The devices of a topology such as "v5e:4x8", or of this machine for "cpu".

    Raises ValueError for a name that JAX does not know, ImportError where libtpu is missing.
    """
    if topology == "cpu":
        return jax.devices("cpu")
    if not re.fullmatch(r"v\d+\w*:\d+(x\d+)*", topology):
        raise ValueError(
            f"no topology {topology!r}: programs can be compiled for TPUs that are not here, such "
            f"as {EXAMPLES}, and for this machine's cpu"
        )
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"--topology={topology} needs libtpu, which needs no TPU: pip install 'pdae_jax[tpu]'"
        ) from error
    from jax.experimental import topologies

    for name, value in WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # libtpu's own kinds
        raise ValueError(
            f"no topology {topology!r}: give one as {EXAMPLES} or cpu "
            f"({str(error).splitlines()[0][:120]})"
        ) from error
