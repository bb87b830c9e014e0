"""A comparison of an imported model with its PyTorch files."""

import dataclasses

from etils import epy

from pdae_jax.commands.options import Options as Base
from pdae_jax.commands.options import option

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.convert import verification


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Base):
    source: tuple[str, ...] = option(
        (), "the PyTorch files, comma-separated, if not where they were"
    )


def run(path: str, options: Options) -> bool:
    """Prints the comparison; whether it passed."""
    return verification.verify(path, options.source or None)
