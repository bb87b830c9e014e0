"""Prints what heavy libraries are there once every command and every config can be read."""

import sys
from pathlib import Path

from pdae_jax import commands, main
from pdae_jax.config import load_config

for name in commands.NAMES:
    commands.module_of(name)
    main.command_usage(name)
for config in Path("configs").glob("*.py"):
    load_config(str(config))
heavy = ("jax", "flax", "optax", "orbax", "sklearn", "tensorflow", "clu", "torch", "grain")
print(*[name for name in heavy if name in sys.modules])
