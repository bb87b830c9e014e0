"""`DataError`, the one exception of pictures and tables that cannot be used."""

import importlib
from types import ModuleType


class DataError(ValueError):
    """Data that cannot be used: one line that says what is wrong, with its value, and the remedy.

    Meant to be shown to a person as it is, without a traceback.
    """


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional module, or says in one line which extra of this package brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"the package {module.partition('.')[0]} is needed and cannot be imported "
            f"({first_line(error)}): pip install 'pdae_jax[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
