"""The machine at hand: its devices, their free memory, and how fast they multiply matrices."""

import math
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class Machine(NamedTuple):
    """What decides how large a training may be.

    kind: jax.Device.device_kind, "cpu" of a CPU. devices: of all processes. cores: of this host.
    memory: free bytes of each device, inf where nothing tells. flops: of each device, FLOP/s of a
    matmul.
    """

    kind: str
    devices: int
    cores: int
    memory: float
    flops: float

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    def __str__(self) -> str:
        what = f"{self.cores} cores" if self.is_cpu else f"{self.devices} x {self.kind}"
        free = (
            f"{self.memory / 1e9:.1f} GB free" if math.isfinite(self.memory) else "memory unknown"
        )
        speed, unit = (self.flops / 1e9, "G") if self.is_cpu else (self.flops / 1e12, "T")
        return f"{what}, {free}, {speed:.0f} {unit}FLOP/s"


def measured(precision: str = "float32") -> Machine:
    """This machine as it is now; takes about a second. precision: of the matmul."""
    device, here = jax.local_devices()[0], jax.local_device_count()
    cpu = device.platform == "cpu"
    if cpu:  # whose devices share one host
        memory = free_memory() / here
    else:
        stats = device.memory_stats() or {}
        memory = stats.get("bytes_limit", math.inf) - stats.get("bytes_in_use", 0)
    return Machine(
        "cpu" if cpu else device.device_kind,
        jax.device_count(),
        cores(),
        memory,
        matmul_flops(precision, 2048 if cpu else 4096) / (here if cpu else 1),
    )


def matmul_flops(dtype: DTypeLike, size: int) -> float:
    """FLOP/s of a square matmul on this process's first device: the median of nine."""
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()  # compiled
    seconds = []
    for _ in range(9):
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(root: Path = Path("/")) -> float:
    """Bytes that this process may still take: the host's or its control groups', the fewer.

    root: where /proc and /sys are. inf where nothing tells.
    """
    free = [math.inf]
    meminfo = root / "proc/meminfo"
    if meminfo.exists():
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free.append(1024 * int(fields["MemAvailable"].split()[0]))
    elif "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, kind, path = line.split(":", 2)
        if kind == "":  # version 2
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif kind == "memory":
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = mount / path.strip("/")
        free += [
            _left(one, *names) for one in (folder, *folder.parents) if one.is_relative_to(mount)
        ]
    return max(0.0, min(free))


def _left(group: Path, limit: str, usage: str, cache: str) -> float:
    """What a control group's limit leaves; the files that it caches are given up when wanted."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:  # no such group here: a container sees its own alone
        return math.inf
    return math.inf if most == "max" else int(most) - used + int(stat.get(cache, 0))
