"""The commands, one file each: its options, and what it does; files in, a page out.

Importing a command imports neither JAX nor scikit-learn: a mistyped flag and --help answer at once.
"""

import importlib
from types import ModuleType

from pdae_jax.runtime.choices import nearest

# Those that read a config; those that work on a model and write a page, in the report's order.
OF_CONFIGS = ("train", "compile")
PAGES = (
    "reconstruct",
    "interpolate",
    "evaluate",
    "sampling",
    "manipulate",
    "generate",
    "fewshot",
    "probe",
    "gap",
    "denoise",
    "shift",
    "encode",
    "project",
    "report",
    "demo",
)
SHIPPED = "emoji"  # the model of the demo, and of the explorer where none is named
NAMES = (*OF_CONFIGS, "verify", "explore", *PAGES)


def module_of(name: str) -> ModuleType:
    """The module of a command; ValueError with the nearest names."""
    return importlib.import_module(f"pdae_jax.commands.{nearest(name, NAMES, 'mode')}")
