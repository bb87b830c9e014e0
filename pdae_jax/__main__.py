"""python -m pdae_jax: the command, see `main`."""

from pdae_jax.main import cli

cli()
