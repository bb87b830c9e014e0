"""Checksums of arrays, saved beside them, so that what is read is what was written."""

import math
from typing import Any

import jax
import numpy as np

from pdae_jax.runtime import processes

_ODD = np.uint32(2654435761)  # Knuth's multiplier, 2^32 over the golden ratio
_BLOCK = 2**20  # words taken at a time, which fit into the cache


def checksums(tree: Any) -> dict[str, str]:
    """{path of an array: its type, shape and checksum}, of arrays of NumPy or JAX.

    The checksum is the sum of the array's words, each times an odd number of its own, modulo 2^32:
    a change of one word always shows. It does not depend on how an array lies over the devices of
    all processes, each of which sums what is its own. Every process must call it.
    """
    leaves = jax.tree.leaves_with_path(tree)
    own = np.array([_sum(leaf) for _, leaf in leaves], np.uint32)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)} {total:08x}"
        )
        for (path, leaf), total in zip(leaves, processes.sums(own), strict=True)
    }


def differing(saved: dict[str, str], read: dict[str, str]) -> list[str]:
    """The paths of the arrays that are not as they were saved, the missing and new ones too."""
    return [name for name in saved | read if saved.get(name) != read.get(name)]


def _sum(leaf: jax.Array | np.ndarray) -> np.uint32:
    """The sum over the parts of an array that are this process's to count."""
    if not isinstance(leaf, jax.Array):
        whole = tuple(slice(0, n) for n in leaf.shape)
        return _part(np.asarray(leaf), whole, leaf.shape) if processes.writes() else np.uint32(0)
    parts = (s for s in leaf.addressable_shards if s.replica_id == 0)
    sums = [_part(np.asarray(part.data), part.index, leaf.shape) for part in parts]
    return np.sum(sums, dtype=np.uint32)


def _part(part: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.uint32:
    """The sum over a part, which lies at `index` in an array of `shape`."""
    words = _words(part)
    place = np.zeros((), np.uint32)
    for d, (where, n) in enumerate(zip(index, shape, strict=True)):
        stride = np.uint32(math.prod(shape[d + 1 :]) & 0xFFFFFFFF)
        along = np.arange(*where.indices(n), dtype=np.uint32) * stride
        place = place[..., None] + along
    place = np.broadcast_to(place, part.shape).reshape(-1)
    total = np.uint32(0)
    with np.errstate(over="ignore"):
        for start in range(0, part.size, _BLOCK):
            some = slice(start, start + _BLOCK)
            for k in range(words.shape[1]):
                odd = (place[some] + np.uint32(k)) * _ODD * np.uint32(2) + np.uint32(1)
                total += np.sum(words[some, k] * odd, dtype=np.uint32)
    return total


def _words(part: np.ndarray) -> np.ndarray:
    """The numbers as unsigned words, [n, 1], or [n, 2] of those that have 64 bits."""
    size = min(part.dtype.itemsize, 4)
    words = np.ascontiguousarray(part).reshape(-1).view(f"u{size}").astype(np.uint32)
    return words.reshape(part.size, part.dtype.itemsize // size)
