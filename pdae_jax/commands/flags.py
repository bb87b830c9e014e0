"""A command's options as absl flags: absl parses, suggests and rejects."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

from absl import flags

from pdae_jax.commands.options import Options


class _TupleParser(flags.ArgumentParser):
    """Comma-separated items of one kind."""

    def __init__(self, kind: Callable[[str], Any]):
        self._kind = kind
        self.syntactic_help = "comma-separated"

    def parse(self, argument: str | tuple[Any, ...]) -> tuple[Any, ...]:
        if isinstance(argument, tuple):
            return argument
        return tuple(self._kind(item.strip()) for item in argument.split(",") if item.strip())

    def flag_type(self) -> str:
        return "comma-separated list"


def define(options: type[Options], flag_values: flags.FlagValues) -> None:
    """Defines a flag for every option; None stands for its default, which `read` fills in."""
    kinds = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind, text = kinds[field.name], help_of(field)
        if typing.get_origin(kind) is types.UnionType:  # of it and None
            kind = typing.get_args(kind)[0]
        define_as = {
            bool: flags.DEFINE_boolean,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }.get(kind)
        if define_as:
            define_as(field.name, None, text, flag_values=flag_values)
        else:
            parser = _TupleParser(typing.get_args(kind)[0])
            flags.DEFINE(parser, field.name, None, text, flag_values=flag_values)


def read(options: type[Options], flag_values: flags.FlagValues) -> Options:
    """The options as the flags say; ValueError where one is not what it may be."""
    names = [field.name for field in dataclasses.fields(options)]
    typed = {n: flag_values[n].value for n in names if flag_values[n].present}
    for name, value in typed.items():
        if value == "":  # as of a shell's variable that is not set
            raise ValueError(f"--{name}= is empty: give a value, or leave it out")
    given = options(**typed)
    if given.ignored():
        raise ValueError(f"this would be ignored: {given.ignored()}")
    return given


def help_of(field: dataclasses.Field[Any]) -> str:
    """A noun phrase and the default."""
    value: Any = field.default
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, bool):
        value = str(value).lower()
    return field.metadata["help"] + (f" (default {value})" if value not in ("", None) else "")
