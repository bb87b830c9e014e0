"""Pictures in one .npz as ADM's evaluation reads and writes it, in chunks: any number fits."""

import contextlib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np


def write(path: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes uint8 chunks [k, H, W, C], `shape` [N, H, W, C] in all, as array "arr_0"."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            for chunk in chunks:
                stream.write(np.ascontiguousarray(chunk, np.uint8).tobytes())


def write_npy(path: Path, chunks: Iterable[np.ndarray], shape: tuple[int, ...]) -> None:
    """Writes float32 chunks [k, H, W, C], `shape` in all, as one array."""
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk, "<f4").tobytes())


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


class Reference(NamedTuple):
    """A reference for FID: mean and covariance of Inception's features, or else pictures."""

    moments: tuple[np.ndarray, np.ndarray] | None  # [2048] and [2048, 2048]
    pictures: Iterable[np.ndarray]  # batches, uint8 [B, H, W, C]


@contextlib.contextmanager
def open_reference(path: Path, batch_size: int = 256) -> Iterator[Reference]:
    """Opens ADM's reference file; ValueError where the file holds neither.

    Whatever goes wrong with the file within the context is told in one line.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if {"mu", "sigma"} <= set(file.files):
                yield Reference((file["mu"], file["sigma"]), ())
                return
            if "arr_0" not in file.files:
                raise ValueError(f"it has {', '.join(file.files) or 'nothing'}")
        yield Reference(None, read(path, batch_size))
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is no reference for FID, an .npz of mu and sigma or of pictures arr_0: "
            f"{str(error).splitlines()[0]}"
        ) from error
