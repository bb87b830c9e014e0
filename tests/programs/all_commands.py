"""Every command on the model in WORKDIR, into OUT: the report does all but encode."""

import sys

from pdae_jax.commands import encode, report
from pdae_jax.commands.page_command import run_page


def main(workdir: str, out: str) -> None:
    options = report.Options(
        n=3,
        scored=3,
        steps=2,
        invert_steps=2,
        latent_steps=2,
        attribute="3",
        inversions=("dpm++2m",),
        inversion_steps=(2,),
    )
    run_page("report", workdir, options, out=f"{out}/report")
    run_page("encode", workdir, encode.Options(), out=f"{out}/encode")


if __name__ == "__main__":
    main(*sys.argv[1:])
