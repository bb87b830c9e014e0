"""MNIST at 32 px, one channel: a small real run for one accelerator.

    python -m pdae_jax.main --config=configs/mnist32.py --workdir=DIR

Trains the diffusion model, then PDAE, then writes a report. Data: tfds:mnist, prepared once by
`tfds build mnist --file_format=array_record` (that needs TensorFlow, training does not); a
folder:PATH of pictures will do too.
Hardware: one accelerator. Time, estimated: 0.8 hours at 39 TFLOP/s, what the paper's A100 does
at 128 px; small networks reach less. configs/digits.py is the smaller sister that two CPU cores
train in minutes. Score: none published.
"""

from typing import Any

from ml_collections import ConfigDict

from pdae_jax import config as config_lib


def get_config(variant: str = "") -> ConfigDict:
    config: Any = config_lib.base(
        variant,
        name="mnist32",
        data="tfds:mnist",
        flip=False,
        stages=("dpm", "pdae", "report"),
        model=dict(
            image_shape=(32, 32, 1), base=64, mult=(1, 2, 2, 4), attention=(), heads=1, z_size=128
        ),
    )
    for stage in (config.dpm, config.pdae):
        stage.update(
            learning_rate=2e-4,
            decay="cosine",
            warmup=500,
            save_every=5000,
            pictures_every=5000,
        )
    config.dpm.steps = 40_000
    config.pdae.steps = 40_000
    return config
