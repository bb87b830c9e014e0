"""The mesh, and where each array lives on it: batches over all devices, parameters over "fsdp"."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from pdae_jax.runtime.progress import bar

AXES = ("data", "fsdp")
# As cuDNN reads it: of a kernel [h, w, C, D], and of one whose convolution's gradient is taken.
OHWI, OHWI_OF_GRADIENT = Layout((3, 0, 1, 2)), Layout((2, 0, 1, 3))


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh ("data", "fsdp") over all devices; fsdp of them share one copy of the parameters."""
    found = np.asarray(jax.devices() if devices is None else devices)
    if fsdp < 1 or found.size % fsdp:
        raise ValueError(f"mesh.fsdp = {fsdp} does not divide the {found.size} devices")
    return Mesh(found.reshape(-1, fsdp), AXES)


def over_batch(mesh: Mesh) -> NamedSharding:
    """Examples over every device, both axes."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_fsdp(mesh: Mesh, tree: Any) -> Any:
    """Each array's sharding: its largest dimension that the fsdp axis divides; else replicated."""
    size = mesh.shape["fsdp"]

    def one(array: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        spec: list[str | None] = [None] * array.ndim
        divisible = [d for d in range(array.ndim) if array.shape[d] % size == 0]
        if size > 1 and divisible and array.size >= 1024 * size:
            spec[max(divisible, key=lambda d: array.shape[d])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, tree)


def is_nvidias(device: Any) -> bool:
    return device.device_kind.startswith("NVIDIA")


def as_cudnn_reads(mesh: Mesh, dtype: DTypeLike) -> bool:
    """Whether kernels are kept in memory as cuDNN reads them: else a step copies each of them.

    On NVIDIA's GPUs in bfloat16; in float32 what cuDNN reads depends on the card.
    """
    return is_nvidias(mesh.devices.flat[0]) and dtype == jnp.bfloat16


def placed(mesh: Mesh, tree: Any, dtype: DTypeLike) -> Any:
    """Where each array of a training state lies, `over_fsdp`, and how in memory.

    dtype: in which the networks compute.
    """
    gpu = as_cudnn_reads(mesh, dtype)

    def one(path: Sequence[Any], array: Any, where: NamedSharding) -> Format | NamedSharding:
        if not gpu or array.ndim != 4:
            return where
        taps = getattr(path[-1], "key", "") == "taps"  # `networks.layers.up_by_gradient`
        return Format(OHWI_OF_GRADIENT if taps else OHWI, where)

    return jax.tree_util.tree_map_with_path(one, tree, over_fsdp(mesh, tree))


def shapes(mesh: Mesh, tree: Any, dtype: DTypeLike = jnp.float32) -> Any:
    """The shapes of arrays not yet there, each with its place by `placed`."""
    return jax.tree.map(
        lambda a, where: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where),
        tree,
        placed(mesh, tree, dtype),
    )


def to_mesh(mesh: Mesh, batch: Any) -> Any:
    """This process's share of a global batch, as global arrays over the mesh."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(over_batch(mesh), x), batch
    )


def in_batches(
    function: Callable[..., Any],
    params: Any,
    *arrays: jax.Array | np.ndarray | None,
    mesh: Mesh,
    batch_size: int,
    words: str = "",
    whole: bool = False,
    **static: Any,
) -> Any:
    """function(params, *arrays, **static) over chunks of at most batch_size examples, joined.

    Each array is [n, ...], or None, and whatever gives slices that NumPy knows; the results are
    NumPy's. The device holds two chunks at a time, whatever n is. A chunk is spread over the mesh's
    devices; all of a call have one size (`chunk_size`; batch_size where they must be `whole`), to
    which the last one is padded.
    """
    n = next(len(a) for a in arrays if a is not None)
    if not n:
        raise ValueError("got no examples: the batch is empty")
    size = chunk_size(batch_size if whole else n, batch_size, mesh.size)
    starts = range(0, n, size)
    pieces, under_way = [], None
    for start in bar(words, starts) if len(starts) > 1 else starts:
        part = [a if a is None else np.asarray(a[start : start + size]) for a in arrays]
        short = size - min(size, n - start)
        if short:
            part = [a if a is None else np.concatenate([a, a[-1:].repeat(short, 0)]) for a in part]
        out = function(params, *jax.device_put(part, over_batch(mesh)), **static)
        if under_way is not None:
            pieces.append(jax.device_get(under_way))
        under_way = out
    pieces.append(jax.device_get(under_way))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *pieces)


def chunk_size(n: int, batch_size: int, devices: int = 1) -> int:
    """The examples that are computed at a time of n: 1, 8 or batch_size, over all devices.

    So few sizes, as each is compiled by itself, and less than twice as many examples as there are
    from 5 on.
    """
    size = batch_size if 2 * n > batch_size else 8 if n > 1 else 1
    return -(-min(size, batch_size) // devices) * devices
