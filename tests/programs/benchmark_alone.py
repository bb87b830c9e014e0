"""The benchmarked program with what computes alone: prepares and runs a decoding."""

import sys

for name in (
    "clu",
    "ml_collections",
    "tqdm",
    "grain",
    "tensorflow_datasets",
    "sklearn",
    "PIL",
):
    sys.modules[name] = None  # type: ignore[assignment]

from benchmarks import jax_contender
from benchmarks.speed import TINY, work_of
from pdae_jax.networks.architecture import Architecture

run, *_ = jax_contender.prepare("decode", Architecture(**TINY), 2, "float32", 2)
run(1)
print("torch" not in sys.modules and work_of("train", 16, 2) > work_of("decode", 16, 1) > 0)
