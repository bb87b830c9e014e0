"""Tables of codes: a source of pictures encoded once, stored, and gone on with where it stopped."""
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pdae_jax import checkpoint, latent
from pdae_jax import data as data_lib
from pdae_jax.model import Model

TABLE = "codes.npz"
PART_ROWS = 4096


class Codes(NamedTuple):
    """z of every picture of a source: float32 [N, d], NaN where a picture is broken; its labels
    [N, A] with the attributes' names; and where each picture is (a path or a key)."""

    z: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...]
    where: np.ndarray

    def whole(self) -> "Codes":
        """Without the broken pictures."""
        good = np.isfinite(self.z).all(1)
        return Codes(self.z[good], self.labels[good], self.attributes, self.where[good])


def encode(model: Model, source, folder: str | os.PathLike, *, made_from: dict,
           batch_size: int = 64, workers: int = 0, max_broken: float = 0.1) -> Codes:
    """Encodes every picture of `source` into folder/codes.npz, in its order.

    Interrupted, it goes on where it stopped, with the same result. made_from: what the table
    depends on (checkpoints, data); a folder made from something else is made anew.
    """
    folder, parts = Path(folder), Path(folder) / "parts"
    made_from = json.loads(json.dumps(made_from))
    record = folder / "made_from.json"
    if record.exists() and json.loads(record.read_text()) != made_from:
        for path in (folder / TABLE, record, *parts.glob("*.npy")):
            path.unlink(missing_ok=True)
    if (folder / TABLE).exists():
        return read(folder)
    parts.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(made_from, indent=1) + "\n")

    starts = range(0, len(source), PART_ROWS)
    with tqdm(total=len(source), desc=f"encode {source.name}", unit="picture", dynamic_ncols=True,
              disable=not sys.stderr.isatty()) as bar:
        for start in starts:
            path = parts / f"{start:012d}.npy"
            rows = np.arange(start, min(start + PART_ROWS, len(source)))
            if not path.exists():
                np.save(_partial(path), _encode_rows(model, source, rows, batch_size, workers,
                                                     max_broken, bar))
                _partial(path).rename(path)
            else:
                bar.update(len(rows))
    z = np.concatenate([np.load(parts / f"{start:012d}.npy") for start in starts])
    where = np.array([source.where(i) for i in range(len(source))])
    codes = Codes(z, np.asarray(source.labels, np.float32), tuple(source.attributes), where)
    np.savez(_partial(folder / TABLE), **codes._asdict())
    _partial(folder / TABLE).rename(folder / TABLE)
    for start in starts:
        (parts / f"{start:012d}.npy").unlink()
    parts.rmdir()
    return codes


def _partial(path: Path) -> Path:
    return path.with_name(f".partial-{path.name}")


def _encode_rows(model, source, rows, batch_size, workers, max_broken, bar) -> np.ndarray:
    size, channels = model.arch.image_shape[:2], model.arch.image_shape[2]
    pieces = []
    batches = data_lib.batches(source, size=size, channels=channels, batch_size=batch_size,
                               indices=rows, workers=workers, max_broken=max_broken)
    try:
        for batch in batches:
            z = np.array(model.encode(batch["image"]))
            z[~batch["mask"]] = np.nan
            real = batch["index"] >= 0  # the last batch is filled up
            pieces.append(z[real])
            bar.update(int(real.sum()))
    finally:
        batches.close()
    return np.concatenate(pieces)


def read(folder: str | os.PathLike) -> Codes:
    """The table that `encode` wrote to `folder`."""
    path = Path(folder) / TABLE
    if not path.exists():
        raise ValueError(f"no codes at {folder}: encode the data first")
    with np.load(path) as table:
        return Codes(table["z"], table["labels"], tuple(map(str, table["attributes"])),
                     table["where"])


def made_from(workdir: str | os.PathLike, data: dict) -> dict:
    """What a table of codes of a workdir's model depends on: the model's checkpoints, and the data."""
    steps = checkpoint.latest_steps(workdir)
    return {"checkpoints": {name: steps[name] for name in steps.keys() - OF_CODES}, "data": data}


# What is made from codes, and so does not change them.
OF_CODES = {"statistics", "latent", "classifier"}


def write_parquet(codes: Codes, path: str | os.PathLike) -> None:
    """The table as columns: where, z_0 .. z_d, and one for each attribute."""
    import pyarrow
    import pyarrow.parquet

    columns = {"where": list(map(str, codes.where))}
    columns |= {f"z_{k}": codes.z[:, k] for k in range(codes.z.shape[1])}
    columns |= {name: codes.labels[:, k] for k, name in enumerate(codes.attributes)}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def store_statistics(workdir: str | os.PathLike, codes: Codes, made_from: dict) -> None:
    """Writes mean and standard deviation of z to workdir, as group "statistics", once."""
    mean, std = latent.statistics(codes.whole().z)
    step = max(made_from["checkpoints"].values())
    with checkpoint.Checkpoints(Path(workdir) / "statistics") as checkpoints:
        if checkpoints.latest() != step:
            checkpoints.save(step, {"statistics": {"mean": mean, "std": np.maximum(std, 1e-6)}})
