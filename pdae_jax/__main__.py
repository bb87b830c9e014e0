"""python -m pdae_jax: the command, see `main`."""

from pdae_jax.runtime import interrupt

interrupt.end_in_one_line()  # before imports that take their time

from pdae_jax.main import cli  # noqa: E402

cli()
