"""Memory and time of encoding any number of pictures: peaks that do not grow with them.

    python -m benchmarks.encoding_memory                        # 50,000 and 200,000 pictures
    python -m benchmarks.encoding_memory --pictures 1000000 --formats parquet

Small pictures, no two the same, made as they are asked for, with a path, a group and labels; a tiny
encoder, whose z has as many numbers as a real one. Everything else is the command's own: loading in
order, chunks on the disk, and the writers. Each number of pictures and format is a process of its
own, in a folder that is removed. Needs the package installed.
"""

import argparse
import dataclasses
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import where_and_when
from pdae_jax.data.dataset import Data
from pdae_jax.data.source import Source
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime import cpu
from pdae_jax.value_range import EIGHT_BIT, ValueRange
from pdae_jax.workdir.code_files import FORMATS

SIDE = 8
GROUP = 40  # pictures of one patient
PIXELS = (1 + np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1)) ** 2


class Patterns(Source):
    """n pictures [8, 8, 1], each of its own pattern."""

    name = "patterns"
    attributes = ("grey", "dark", "third=a", "third=b", "third=c")

    def __init__(self, n: int):
        self.n = n
        self.group = np.char.mod("patient%d", np.arange(n) // GROUP)
        self.split_of = np.where(np.arange(n) % 10, "train", "test")

    def __len__(self) -> int:
        return self.n

    @functools.cached_property
    def labels(self) -> np.ndarray:
        k = np.arange(self.n)
        thirds = [k % 3 == third for third in range(3)]
        return np.stack([k % 256, k % 256 < 128, *thirds], axis=1).astype(np.float32)

    def image(self, i: int) -> np.ndarray:
        return ((i * PIXELS) // 7 % 256).astype(np.uint8)

    def path(self, i: int) -> str:
        return f"patient{i // GROUP}/{i:09d}.png"


@dataclasses.dataclass(frozen=True)
class Made(Data):
    """Settings of pictures that need no files."""

    pictures_made: int = 0

    def open(self, split: str, value_range: ValueRange | None = None) -> Source:
        source = Patterns(self.pictures_made)
        source.value_range = value_range or EIGHT_BIT
        return source


def measure(n: int, format: str, z_size: int) -> dict[str, float]:
    """Encodes n pictures in this process: seconds, and peaks of memory in MB."""
    import jax

    from pdae_jax.model import Model
    from pdae_jax.networks.groups import DTYPES, Networks
    from pdae_jax.tasks import encoding
    from pdae_jax.workdir.output import Output

    arch = Architecture(
        image_shape=(SIDE, SIDE, 1),
        base=32,
        mult=(1,),
        blocks=1,
        attention=(),
        heads=1,
        z_size=z_size,
        encoder_widths=(8,),
    )
    params = Networks(arch, DTYPES["float32"]).init(jax.random.key(0))
    model = Model(arch, {name: params[name] for name in ("dpm", "encoder", "gradient")})
    model.encode(np.zeros((1, SIDE, SIDE, 1), np.uint8))  # compiled
    data = Made("made", pictures_made=n)
    data.open("all").labels  # noqa: B018
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        files = Output(Path(folder), "encode").code_files([format])
        began = time.perf_counter()
        found = encoding.stream(model, data, "all", files, {"n": n}, batch_size=64)
        seconds = time.perf_counter() - began
        assert found.pictures == n
        size = sum(files.sizes().values())
    return {"seconds": seconds, "before": before, "peak": peak(), "file": size / 1e6}


def peak() -> float:
    """The most memory that this process had so far, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most / 1e3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures",
        type=int,
        nargs="+",
        default=[50_000, 200_000],
        help="numbers of pictures (default 50000 200000)",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=list(FORMATS),
        default=["parquet"],
        help="formats (default parquet)",
    )
    parser.add_argument("--z-size", type=int, default=512, help="numbers in z (default 512)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.alone:
        print(json.dumps(measure(args.pictures[0], args.formats[0], args.z_size)))
        return
    print(f"{where_and_when()}, z of {args.z_size} numbers")
    print("format    pictures  peak MB  before MB  file MB  seconds  pictures/s")
    for format in args.formats:
        for n in args.pictures:
            tuned = {} if cpu.accelerator() else {"JAX_PLATFORMS": "cpu", **cpu.environment()}
            line = ["--pictures", str(n), "--formats", format, "--z-size", str(args.z_size)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.encoding_memory", "--alone", *line],
                env={**os.environ, **tuned},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{format:8} {n:9,} {found['peak']:8,.0f} {found['before']:10,.0f} "
                f"{found['file']:8,.0f} {found['seconds']:8,.0f} {n / found['seconds']:11,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
