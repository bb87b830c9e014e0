"""What the command does with a model, one mode each: pictures and numbers that a person can look at.

A mode takes a model's directory (a run's or a converted one) and pictures, and gives the parts of a
page, numbers and files; `run` puts them into a folder as index.html, numbers.json and its own.
"""

from pdae_jax.commands.context import Options
from pdae_jax.commands.generation import fit_few_shot
from pdae_jax.commands.run import MODES, run

__all__ = ["MODES", "Options", "fit_few_shot", "run"]
