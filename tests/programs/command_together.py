"""One of several processes of the command with the given arguments."""

import sys

from pdae_jax.main import cli

coordinator, n, i, *args = sys.argv[1:]
several = [f"--coordinator={coordinator}", f"--processes={n}", f"--process={i}"]
sys.argv = ["main", *args, *(several if n != "1" else [])]
cli()
