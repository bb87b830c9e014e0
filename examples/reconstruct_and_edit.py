"""Reconstructs held-out digits with PDAE, and edits an 8 towards a 3.

    python examples/reconstruct_and_edit.py [WORKDIR]

WORKDIR: a model of digits, such as README's quickstart trains (runs/digits, the default where it
is: MSE 0.0066 and 2.0e-6). Where there is none, trains a small one there (default
runs/small_digits), five minutes on two shared cores of an AMD EPYC, and then prints

    180 held-out digits, MSE of pixels in [0, 1]:
      0.0121 from z alone, 32 numbers
      4.1e-06 from z and the inferred x_T
      0.0729 of no code: the mean picture
    an 8, edited: p(3) 0.02 -> 0.62, p(8) 0.56 -> 0.19

and writes WORKDIR/reconstruct_and_edit.png: originals, both reconstructions, and the edit.
"""

import sys
from pathlib import Path

import jax
import numpy as np

import pdae_jax
from pdae_jax import images, latent
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.tasks.manipulation import manipulate
from pdae_jax.tasks.reconstruction import reconstruct, scores
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

DIGITS = Data("digits", flip=False)
SMALL = Architecture(
    image_shape=(8, 8, 1),
    base=32,
    mult=(1,),
    blocks=1,
    attention=(),
    heads=1,
    dropout=0.0,
    z_size=32,
    encoder_widths=(32, 32),
)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
STEPS = {"dpm": 1000, "pdae": 1200, "classifier": 4000}


def train_small(workdir: str, steps: dict[str, int]) -> None:
    """The diffusion model, PDAE on it, a linear classifier on its codes; resumes where it was."""
    for objective, n in steps.items():
        settings = Settings(
            steps=n,
            batch_size=64,
            learning_rate=2e-3,
            decay="cosine",
            warmup=n // 20,
            ema=0.99,
            health_every=0,
            pictures_every=0,
        )
        if not train(workdir, objective, arch=SMALL, data=DIGITS, settings=settings):
            sys.exit("stopped; the same command resumes")


def main(workdir: str) -> None:
    if "classifier" not in Workdir(workdir).groups:
        train_small(workdir, STEPS)
    model, source = pdae_jax.load(workdir, batch_size=64), DIGITS.open("test")
    x = np.stack([source.image(i) for i in range(180)])

    parts = reconstruct(model, x, draws=1)
    mean = np.broadcast_to(images.to_float(x).mean(0), x.shape)
    print("180 held-out digits, MSE of pixels in [0, 1]:")
    print(f"  {scores(x, parts.alone)['mse']:.3g} from z alone, {model.arch.z_size} numbers")
    print(f"  {scores(x, parts.inferred)['mse']:.2g} from z and the inferred x_T")
    print(f"  {scores(x, mean)['mse']:.3g} of no code: the mean picture")

    eight = x[np.argmax(source.labels[:180, 8])][None]
    direction = latent.direction(model.params["classifier"], 3)
    edited = manipulate(model, eight, direction, STRENGTHS)[0]
    codes = latent.normalise(model.params["statistics"], model.encode(edited))
    p = jax.nn.sigmoid(latent.logits(model.params["classifier"], codes))
    print(
        f"an 8, edited: p(3) {p[0, 3]:.2f} -> {p[-1, 3]:.2f}, p(8) {p[0, 8]:.2f} -> {p[-1, 8]:.2f}"
    )

    rows = [x[:12], *(images.to_uint8(y[:12]) for y in (parts.alone, parts.inferred, edited))]
    path = Path(workdir) / "reconstruct_and_edit.png"
    images.to_pil(images.grid(rows), zoom=6).save(path)
    print(path)


if __name__ == "__main__":
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    trained = "runs/digits" if Path("runs/digits").exists() else "runs/small_digits"
    main(sys.argv[1] if len(sys.argv) > 1 else trained)
