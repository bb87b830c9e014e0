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
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 2039e9, 80e9, 1.41e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 3350e9, 80e9, 1.98e9, 450e9),
    "NVIDIA H200": Chip(989e12, 4800e9, 141e9, 1.98e9, 450e9),
}
# The names of chips in topologies such as "v5e:4x8" -> jax.Device.device_kind.
TPUS = {"v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}


class Gpu(NamedTuple):
    """What XLA's compiler asks of a GPU beside its peaks: NVIDIA's published figures.

    cores: streaming multiprocessors, each with `lanes` float32 units and `shared` bytes of shared
    memory. cache: bytes of L2.
    """

    kind: str
    capability: tuple[int, int]
    cores: int
    lanes: int
    shared: int
    cache: int


# The names of cards in topologies such as "h100x8".
GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 164 * 1024, 40 * 2**20),
    "h100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 228 * 1024, 50 * 2**20),
    "h200": Gpu("NVIDIA H200", (9, 0), 132, 128, 228 * 1024, 50 * 2**20),
}
A_HOST = 8  # GPUs of one
CUDNN = 91200  # the version that jax[cuda13] asks for: 9.12.0


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
EXAMPLES = "v5e:4x8, v6e:2x4, h100, a100x8"  # of topologies
WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(topology: str) -> list[Any]:
    """The devices of a topology such as "v5e:4x8" or "h100x8", or of this machine for "cpu".

    Raises ValueError for a name that JAX does not know, ImportError where the compiler for it is
    missing.
    """
    if topology == "cpu":
        return jax.devices("cpu")
    if gpu := re.fullmatch(rf"({'|'.join(GPUS)})(?:x(\d+))?", topology):
        return gpus(GPUS[gpu[1]], int(gpu[2] or 1))
    if not re.fullmatch(r"v\d+\w*:\d+(x\d+)*", topology):
        raise ValueError(
            f"no topology {topology!r}: programs can be compiled for TPUs and GPUs that are not "
            f"here, such as {EXAMPLES}, and for this machine's cpu"
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


def gpus(gpu: Gpu, n: int) -> list[Any]:
    """n GPUs of one host, which need not be here.

    Raises ValueError for another number than a host has, ImportError where JAX's plugin for CUDA
    is missing: its compiler needs neither a card nor CUDA's own libraries.
    """
    if not 1 <= n <= A_HOST:
        raise ValueError(f"a topology of GPUs is one host's, 1 to {A_HOST} of them, got {n}")
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=description(gpu), topology=f"1x1x{n}"
        ).devices
    except (NotImplementedError, RuntimeError) as error:  # without the plugin, or with another's
        raise ImportError(
            f"compiling for a {gpu.kind} needs JAX's plugin for CUDA, of jaxlib's own version (no "
            f"GPU is needed): pip install 'pdae_jax[gpu-forecast]' "
            f"({str(error).splitlines()[0][:120]})"
        ) from error


def description(gpu: Gpu) -> str:
    """A GPU as XLA's compiler reads it: the text of a GpuTargetConfigProto."""
    chip = CHIPS[gpu.kind]
    assert chip.clock is not None  # of all GPUS it is known
    return f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: {gpu.capability[0]} minor: {gpu.capability[1]} }}
          core_count: {gpu.cores}
          fpus_per_core: {gpu.lanes}
          clock_rate_ghz: {chip.clock / 1e9}
          memory_bandwidth: {chip.bandwidth:.0f}
          device_memory_size: {chip.memory:.0f}
          l2_cache_size: {gpu.cache}
          shared_memory_per_core: {gpu.shared}
          shared_memory_per_block_optin: {gpu.shared - 1024}
          shared_memory_per_block: 49152
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_core_limit: 2048
          threads_per_block_limit: 1024
          threads_per_warp: 32
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: {CUDNN // 10_000} minor: {CUDNN // 100 % 100} }}
        device_description_str: "{gpu.kind}"
    """
