"""What training a config costs: GFLOP an image and hours at a given speed, for each objective.

    python tools/training_cost.py [--tflops=39] configs/celeba64.py configs/emoji.py:64 ...

The FLOPs are those of the traced training step before any compiler touches it; nothing is run.
--tflops is the speed assumed: 39 TFLOP/s is what the paper's A100 reaches in float32 at 128 px
(81.57 images/s of 481.6 GFLOP each). The times in the configs' docstrings are from here.
"""
import argparse

import jax
import jax.numpy as jnp

from pdae_jax.main import load_config
from pdae_jax.models import Architecture, Networks
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training.objectives import OBJECTIVES


def gflop_an_image(arch: Architecture, objective: str, batch: int = 8) -> float:
    """GFLOP of one image's loss and gradients (multiply-adds x 2)."""
    net, row, schedule = Networks(arch), OBJECTIVES[objective], SCHEDULES[arch.schedule](arch.T)

    def gradients(trained, frozen, images, rng):
        drawn = row.draw(rng, {"image": images}, schedule.T)

        def loss(trained):
            return row.loss(net, schedule, {**frozen, **trained}, drawn, 0.1, None).sum()

        return jax.grad(loss)(trained)

    params = jax.eval_shape(lambda: net.init(jax.random.key(0)))
    trained, frozen = ({group: params[group] for group in groups}
                       for groups in (row.trains, row.needs))
    images = jax.ShapeDtypeStruct((batch, *arch.image_shape), jnp.uint8)
    lowered = jax.jit(gradients).lower(trained, frozen, images, jax.random.key(0))
    return lowered.cost_analysis()["flops"] / batch / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="files of configs/, with a variant or without")
    parser.add_argument("--tflops", type=float, default=39.0, help="TFLOP/s assumed (39)")
    arguments = parser.parse_args()
    print(f"{'config':28}{'objective':>10}{'GFLOP/image':>13}{'M images':>10}{'hours':>8}")
    for path in arguments.configs:
        config = load_config(path)
        for objective in ("dpm", "pdae"):
            gflop = gflop_an_image(Architecture(**config.model), objective)
            images = config[objective].steps * config[objective].batch_size
            hours = gflop * images / (arguments.tflops * 1e3) / 3600
            print(f"{path:28}{objective:>10}{gflop:13.2f}{images / 1e6:10.2f}{hours:8.2f}")


if __name__ == "__main__":
    main()
