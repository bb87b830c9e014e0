"""Reads the JSON files of a model's directory; a broken one is named, with the remedy."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from pdae_jax.runtime.choices import listed

T = TypeVar("T")


def read(path: Path) -> Any:
    """The value in a file."""
    return _parse(path, path.read_bytes())


def read_lines(path: Path) -> list[Any]:
    """The value of every line; one that was cut off at the end, by a kill, is left out."""
    return [
        _parse(path, line)
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def append_line(path: Path, value: Any) -> None:
    """Adds a line; one that a kill has cut off goes."""
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps(value).encode() + b"\n")


def read_as(kind: type[T], path: Path, value: Any) -> T:
    """A dataclass of a value in a file; ValueError where its fields are not the dataclass's."""
    known = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType] - T is a dataclass
    unknown = sorted(value.keys() - known) if isinstance(value, dict) else [type(value).__name__]
    if unknown:
        raise ValueError(
            f"{path} has what this version does not know: {listed(unknown)}; it is of another "
            f"version of pdae_jax, or was edited"
        )
    try:
        return kind(**value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold what it should: {error}") from error


def _parse(path: Path, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # of JSON's or of UTF-8's
        raise ValueError(
            f"{path} is broken ({error}): restore it from a copy, or start in another --workdir"
        ) from error
