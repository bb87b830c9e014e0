"""Pictures in one .npz as ADM's evaluation reads and writes it, by parts: any number fits."""

import functools
import operator
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pdae_jax.metrics.frechet import Moments


def write(path: Path, parts: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes uint8 parts [k, H, W, C], `shape` [N, H, W, C] in all, as array "arr_0"."""
    partial = path.with_name(f".partial-{path.name}")
    with zipfile.ZipFile(partial, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
            )
            for part in parts:
                stream.write(np.ascontiguousarray(part, np.uint8).tobytes())
    partial.rename(path)


def read(path: Path, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of the pictures in a file: "arr_0", uint8 [N, H, W, C]."""
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as stream:
        np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        if len(shape) != 4 or dtype != np.uint8 or fortran:
            raise ValueError(f"{path}: arr_0 must be uint8 [N, H, W, C], got {dtype} {list(shape)}")
        size = int(np.prod(shape[1:]))
        for start in range(0, shape[0], batch_size):
            n = min(batch_size, shape[0] - start)
            yield np.frombuffer(stream.read(n * size), np.uint8).reshape(n, *shape[1:])


def reference(path: Path, features, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of Inception's features in a reference file: as stored, or its pictures'.

    features: uint8 [B, H, W, C] -> [B, 2048]. Raises ValueError where the file holds neither.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if {"mu", "sigma"} <= set(file.files):
                return file["mu"], file["sigma"]
            if "arr_0" not in file.files:
                raise ValueError(f"it has {', '.join(file.files) or 'nothing'}")
        seen = functools.reduce(
            operator.add, (Moments.of(features(images)) for images in read(path, batch_size))
        )
        return seen.mean, seen.covariance
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no reference for FID, an .npz of mu and sigma or of pictures "
            f"arr_0: {str(error).splitlines()[0]}"
        ) from error
