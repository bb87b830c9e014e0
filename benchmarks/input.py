"""Speed of the loader alone: images/s from a folder, an LMDB and TFDS.

    python -m benchmarks.input                       # 256 px JPEGs to 64 and 128 px
    python -m benchmarks.input --data folder:PATH    # your own, by the names of --config.data.name

Pictures are made for it (smooth, with noise, as JPEGs of about a photograph's size), in all three
formats. It measures after a first pass, when the files lie in the page cache: a slower disk does
not count. Needs the package installed.
"""

import argparse
import contextlib
import datetime
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from pdae_jax.data import Source, open_source, train_batches


def jpeg(rng: np.random.Generator, size: int) -> bytes:
    """A picture that compresses as a photograph does: smooth colours and a little noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_folder(home: Path, pictures: list[bytes]) -> dict[str, str]:
    (home / "folder").mkdir()
    for i, data in enumerate(pictures):
        (home / "folder" / f"{i:05d}.jpg").write_bytes(data)
    return {"name": f"folder:{home / 'folder'}"}


def write_lmdb(home: Path, pictures: list[bytes]) -> dict[str, str]:
    import lmdb

    with lmdb.open(str(home / "lmdb"), map_size=1 << 32) as env, env.begin(write=True) as txn:
        for i, data in enumerate(pictures):
            txn.put(f"256-{i:05d}".encode(), data)
        txn.put(b"length", str(len(pictures)).encode())
    return {"name": f"lmdb:{home / 'lmdb'}"}


def write_tfds(home: Path, pictures: list[bytes]) -> dict[str, str]:
    import tensorflow_datasets as tfds

    class PdaePictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = home  # pyright: ignore[reportAssignmentType]  # any path will do

        def _info(self) -> Any:
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {"image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")}
                )
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": ((i, {"image": io.BytesIO(data)}) for i, data in enumerate(pictures))}

        def _generate_examples(self) -> NoReturn:
            raise AssertionError("the split is given")

    PdaePictures(data_dir=home / "tfds", file_format="array_record").download_and_prepare()
    return {"name": "tfds:pdae_pictures", "data_dir": str(home / "tfds")}


FORMATS = {"folder": write_folder, "lmdb": write_lmdb, "tfds": write_tfds}


def rates(
    source: Source, size: int, batch: int, workers: int, seconds: float, rounds: int
) -> list[float]:
    """Images/s of each round: training's own batches, shuffled and flipped, one after the other."""
    with contextlib.closing(
        train_batches(source, size=size, channels=3, batch_size=batch, seed=0, workers=workers)
    ) as batches:
        for _ in range(-(-len(source) // batch) + 1):
            next(batches)
        found = []
        for _ in range(rounds):
            began, n = time.perf_counter(), 0
            while time.perf_counter() - began < seconds:
                n += len(next(batches)["image"])
            found.append(n / (time.perf_counter() - began))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=list(FORMATS),
        help="folder, lmdb, tfds (made for it), or names of your own data",
    )
    parser.add_argument(
        "--pictures", type=int, default=1024, help="number of pictures made for it (default 1024)"
    )
    parser.add_argument(
        "--stored", type=int, default=256, help="their height and width (default 256)"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=int,
        default=[64, 128],
        help="heights and widths loaded at (default 64 128)",
    )
    parser.add_argument(
        "--workers",
        nargs="+",
        type=int,
        default=[0],
        help="loader processes, 0 for threads (default 0)",
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="length of a round (default 3)")
    parser.add_argument("--json", type=Path, help="file for every number")
    given = parser.parse_args(argv)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as home:
        rng = np.random.default_rng(0)
        pictures: list[bytes] = []
        for name in given.data:
            if name in FORMATS:
                pictures = pictures or [jpeg(rng, given.stored) for _ in range(given.pictures)]
                data = FORMATS[name](Path(home), pictures)
            else:
                data = {"name": name}
            source = open_source(data["name"], data_dir=data.get("data_dir"), test_fraction=0)
            for size in given.sizes:
                for workers in given.workers:
                    rows.append(
                        dict(
                            data=name,
                            size=size,
                            workers=workers,
                            rates=rates(
                                source, size, given.batch, workers, given.seconds, given.rounds
                            ),
                        )
                    )
    print(
        f"{datetime.date.today()}, {os.cpu_count()} cores; {given.pictures} JPEGs of "
        f"{given.stored} px\n\n| data | loaded at | workers | images/s (of rounds) |\n"
        f"|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['data']} | {row['size']} px | {row['workers'] or 'threads'} | "
            f"{statistics.median(row['rates']):,.0f} ({min(row['rates']):,.0f} to "
            f"{max(row['rates']):,.0f}) |"
        )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
