"""Cost of training configs: GFLOP an image and hours at a given speed, for each objective.

    python tools/training_cost.py [--tflops=39] configs/celeba64.py configs/emoji.py:64 ...

The FLOPs are those of the traced training step before any compiler touches it; nothing is run.
--tflops is the speed assumed: 39 TFLOP/s is what the paper's A100 reaches in float32 at 128 px
(81.57 images/s of 481.6 GFLOP each). The times in the configs' docstrings are from here.
"""

import argparse
from typing import Any

from pdae_jax.config import load_config
from pdae_jax.cost.forecast import training_flops
from pdae_jax.networks.architecture import Architecture


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", help="FILE or FILE:VARIANT of configs/")
    parser.add_argument("--tflops", type=float, default=39.0, help="TFLOP/s assumed (default 39)")
    arguments = parser.parse_args()
    print(f"{'config':28}{'objective':>10}{'GFLOP/image':>13}{'M images':>10}{'hours':>8}")
    for path in arguments.configs:
        config: Any = load_config(path)
        for objective in ("dpm", "pdae"):
            gflop = training_flops(Architecture(**config.model), objective) / 1e9
            images = config[objective].steps * config[objective].batch_size
            hours = gflop * images / (arguments.tflops * 1e3) / 3600
            print(f"{path:28}{objective:>10}{gflop:13.2f}{images / 1e6:10.2f}{hours:8.2f}")


if __name__ == "__main__":
    main()
