"""Fields of dataclasses that say what they are, for --help."""

import dataclasses
from typing import Any

REQUIRED: Any = dataclasses.MISSING  # the default of a field without one


def described(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass's field: its default, a noun phrase for --help, and what its class checks."""
    return dataclasses.field(default=default, metadata={"help": help, **limits})
