"""Every mode on the model in WORKDIR, into OUT: the report does all but encode."""

import sys

from pdae_jax import commands


def main(workdir: str, out: str) -> None:
    options = commands.Options(
        n=3, scored=3, steps=2, invert_steps=2, latent_steps=2, attribute="3", ddpm=False
    )
    for mode in ("report", "encode"):
        commands.run(mode, workdir, options, out=f"{out}/{mode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
