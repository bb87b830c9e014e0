"""Tables of codes: a source of pictures encoded once, stored, and gone on with where it stopped."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pdae_jax import data as data_lib
from pdae_jax import latent
from pdae_jax.model import Model
from pdae_jax.runtime import processes
from pdae_jax.workdir import checkpoints as checkpoint
from pdae_jax.workdir.chunk_cache import Parts

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


def encode(
    model: Model,
    source,
    folder: str | os.PathLike,
    *,
    made_from: dict,
    batch_size: int = 64,
    workers: int = 0,
    max_broken: float = 0.1,
) -> Codes:
    """Encodes every picture of `source` into folder/codes.npz, in its order.

    Interrupted, it goes on where it stopped, with the same result. made_from: what the table
    depends on (checkpoints, data); a folder made from something else is made anew.
    """
    folder, record = Path(folder), Path(folder) / "made_from.json"
    text = json.dumps(made_from, sort_keys=True, indent=1) + "\n"
    if processes.first_says(lambda: (folder / TABLE).exists() and record.read_text() == text):
        return read(folder)
    parts = Parts(folder / "parts", made_from, size=PART_ROWS)
    size, channels = model.arch.image_shape[:2], model.arch.image_shape[2]

    def encode_rows(rows, advance):
        pieces = []
        with data_lib.batches(
            source,
            size=size,
            channels=channels,
            batch_size=batch_size,
            indices=rows,
            workers=workers,
            max_broken=max_broken,
        ) as batches:
            for batch in batches:
                z = np.array(model.encode(batch["image"]))
                z[~batch["mask"]] = np.nan
                real = batch["index"] >= 0  # the last batch is filled up
                pieces.append(z[real])
                advance(int(real.sum()))
        return {"z": np.concatenate(pieces)}

    z = parts.whole(len(source), encode_rows, f"encode {source.name}")["z"]
    where = np.array([source.where(i) for i in range(len(source))])
    codes = Codes(z, np.asarray(source.labels, np.float32), tuple(source.attributes), where)
    with processes.together():
        if processes.writes():
            partial = folder / f".partial-{TABLE}"
            np.savez(partial, **codes._asdict())
            (folder / TABLE).unlink(
                missing_ok=True
            )  # an old table never lies beside the new record
            record.write_text(text)
            partial.rename(folder / TABLE)
    parts.remove()
    return codes


def read(folder: str | os.PathLike) -> Codes:
    """The table that `encode` wrote to `folder`."""
    path = Path(folder) / TABLE
    if not path.exists():
        raise ValueError(f"no codes at {folder}: encode the data first")
    with np.load(path) as table:
        return Codes(
            table["z"], table["labels"], tuple(map(str, table["attributes"])), table["where"]
        )


def made_from(workdir: str | os.PathLike, data: dict) -> dict:
    """What a table of codes of a workdir's model depends on: the model's checkpoints, and the data."""
    steps = checkpoint.latest_steps(workdir)
    return {"checkpoints": {name: steps[name] for name in steps.keys() - OF_CODES}, "data": data}


# What is made from codes, and so does not change them.
OF_CODES = {"statistics", "latent", "classifier", "fewshot"}


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
