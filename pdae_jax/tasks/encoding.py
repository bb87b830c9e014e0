"""Encoding a whole data set: a table of codes, files of any number of codes, their statistics."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pdae_jax import latent
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import Batches, batches
from pdae_jax.data.source import Source
from pdae_jax.images import to_pil, visible
from pdae_jax.model import Model
from pdae_jax.workdir.chunk_cache import Advance, Arrays, Compute
from pdae_jax.workdir.code_files import CodeFiles, Found, Header, Rows
from pdae_jax.workdir.code_table import Codes, CodeTable

SMALLEST_STD = 1e-6  # of a dimension that does not vary
THUMBNAIL = 64  # pixels, at most


def encode(
    model: Model,
    data: Data,
    split: str,
    table: CodeTable,
    cache_key: dict[str, Any],
    *,
    batch_size: int = 64,
    keep_broken: bool = False,
) -> Codes:
    """z of every picture of a split, in its order, kept in `table`; all of it in memory.

    keep_broken: rows of NaN for the pictures that cannot be read; else they have none, and are
    listed alone.

    A table computed from the same `cache_key` (checkpoints, data) is read, another replaced.
    Interrupted, it resumes with the same result.
    """
    if table.is_current(cache_key):
        return table.read()
    with table.lock():
        source = data.open(split, model.value_range)
        chunks = table.chunks(cache_key)
        compute = _compute(model, data, source, batch_size)
        found = chunks.joined(len(source), compute, f"encode {source.name}")
        codes = _codes(source, range(len(source)), found, keep_broken)
        table.write(codes, cache_key)
        chunks.remove()
    return codes


def stream(
    model: Model,
    data: Data,
    split: str,
    files: CodeFiles,
    cache_key: dict[str, Any],
    *,
    batch_size: int = 64,
    keep_broken: bool = False,
    thumbnails: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Found:
    """z of every picture of a split, in its order, written to `files`; of z a chunk in memory.

    record: how the codes were made, for the files. The rest is as of `encode`.
    """
    if files.is_current(cache_key):
        return files.found()
    with files.lock():
        source = data.open(split, model.value_range)
        header = Header(
            model.arch.z_size,
            tuple(source.attributes),
            groups=bool(len(source.group)),
            splits=bool(len(source.split_of)),
            thumbnails=thumbnails,
            record=record or {},
        )
        files.check(header)  # before hours of encoding, not after
        chunks = files.chunks(cache_key)

        def rows() -> Iterator[Rows]:
            compute = _compute(model, data, source, batch_size, thumbnails)
            start = 0
            for found in chunks.run(len(source), compute, f"encode {source.name}"):
                some = range(start, start + len(found["z"]))
                codes = _codes(source, some, found, keep_broken)
                kept = slice(None) if keep_broken else found["why"] == ""
                yield Rows(codes, _pngs(found)[kept].tolist() if thumbnails else ())
                start = some.stop

        found = files.write(header, rows(), cache_key)
        chunks.remove()
    return found


def batches_for(
    model: Model, data: Data, source: Source, indices: Sequence[int] | np.ndarray, batch_size: int
) -> Batches:
    """Pictures at these places in a source, as a model takes them."""
    return batches(
        source,
        size=model.arch.image_shape[:2],
        channels=model.arch.image_shape[2],
        batch_size=batch_size,
        indices=indices,
        workers=data.workers,
        max_broken=data.max_broken,
    )


def _compute(
    model: Model, data: Data, source: Source, batch_size: int, thumbnails: bool = False
) -> Compute:
    """The function that encodes some rows: z, why a picture is broken or "", and thumbnails.

    It raises ValueError where z of a picture that can be read is not finite.
    """

    def encode_rows(rows: range, advance: Advance) -> Arrays:
        pieces, pngs = [], []
        with batches_for(model, data, source, rows, batch_size) as some:
            for batch in some:
                z, mask = np.array(model.encode(batch["image"])), batch["mask"]
                odd = batch["index"][mask & ~np.asarray(np.isfinite(z).all(1))]
                if len(odd):
                    raise ValueError(
                        f"z of {source.where(int(odd[0]))} has values that are NaN or infinite: "
                        f"the model's weights have diverged, so train it again"
                    )
                z[~mask] = np.nan
                real = batch["index"] >= 0  # the last batch is filled up
                pieces.append(z[real])
                if thumbnails:
                    shown = thumbnails_of(batch["image"][real], THUMBNAIL)
                    pngs += [png(one) if good else b"" for one, good in zip(shown, mask[real])]
                advance(int(real.sum()))
            why = [some.broken.get(source.where(i), "") for i in rows]
        found = {"z": np.concatenate(pieces), "why": np.array(why, str)}
        if thumbnails:
            found["png"] = np.array(bytearray().join(pngs), np.uint8)
            found["png_ends"] = np.cumsum([len(one) for one in pngs])
        return found

    return encode_rows


def _codes(source: Source, rows: range, found: Mapping[str, Any], keep_broken: bool) -> Codes:
    """What was found of some rows, with what the source knows of them."""
    some = slice(rows.start, rows.stop)
    where = np.array([source.where(i) for i in rows], str)
    why = found["why"]
    bad = why != ""
    codes = Codes(
        found["z"],
        np.asarray(source.labels[some], np.float32),
        tuple(source.attributes),
        where,
        np.stack([where[bad], why[bad].astype(str)], axis=1),
        np.array([source.path(i) for i in rows], str),
        source.group[some],
        source.split_of[some],
    )
    return codes if keep_broken else codes.without_broken()


def _pngs(found: Mapping[str, Any]) -> np.ndarray:
    """The PNGs of a chunk, an array of bytes, and None for pictures that are broken."""
    data, ends = found["png"].tobytes(), found["png_ends"].tolist()
    pngs = np.empty(len(ends), object)
    pngs[:] = [data[start:end] or None for start, end in zip([0, *ends], ends)]
    return pngs


def thumbnails_of(images: np.ndarray, most: int) -> np.ndarray:
    """Pictures [B, H, W, C] as a screen can show them, [B, h, w, 1 or 3], of at most `most` px."""
    shown = visible(images)
    height, width = shown.shape[1:3]
    if max(height, width) <= most:
        return shown
    share = most / max(height, width)
    size = max(1, round(width * share)), max(1, round(height * share))
    small = np.zeros((len(shown), size[1], size[0], shown.shape[3]), np.uint8)
    for place, one in zip(small, shown):
        resized = np.asarray(to_pil(one).resize(size, Image.Resampling.BOX))
        place[:] = resized.reshape(place.shape)
    return small


def png(image: np.ndarray) -> bytes:
    """A picture uint8 [H, W, 1 or 3] as a PNG."""
    stream = io.BytesIO()
    to_pil(image).save(stream, "PNG")
    return stream.getvalue()


def statistics(codes: Codes) -> dict[str, np.ndarray]:
    """Mean and standard deviation of z, by which it is normalised: {"mean": [d], "std": [d]}."""
    mean, std = latent.statistics(codes.without_broken().z)
    return {"mean": mean, "std": np.maximum(std, SMALLEST_STD)}
