"""Emoji people: 1,272 Twemoji drawings at 32 px (or 64, by a variant).

    python -m pdae_jax.main --config=configs/emoji.py
    python -m pdae_jax.main --config=configs/emoji.py:64

Trains a small diffusion model, then PDAE on it, then writes runs/emoji/report/report.html.
Held-out pictures are of base characters that were not trained on.
Hardware: an accelerator, or patience: two CPU cores train 20 to 40 images a second.
Score: see README for a short run; the full length has not been run.
"""
from pdae_jax import config as config_lib

SIZES = {"": 32, "64": 64}


def get_config(variant: str = ""):
    size = SIZES.get(variant)
    config = config_lib.base("" if size else variant, name=f"emoji{size or 32}", data="emoji",
                             stages=("dpm", "pdae", "report"), model=dict(
        image_shape=(size or 32, size or 32, 3), base=32, mult=(1, 2, 4) + (4,) * (size == 64),
        blocks=1, attention=(8,), heads=4, dropout=0.0, z_size=128))
    for stage in (config.dpm, config.pdae):
        stage.update(batch_size=64, learning_rate=5e-4, decay="cosine", warmup=200, ema=0.998,
                     log_every=50, health_every=500, pictures_every=1000, save_every=500)
    config.dpm.steps = 15_000
    config.pdae.steps = 15_000
    config.report.scored = 126
    return config
