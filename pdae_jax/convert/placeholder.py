"""Placeholders of what a pickle names and nothing imports; and the state dicts inside them."""

from typing import Any

import numpy as np

from pdae_jax.runtime.choices import listed

NAME = 1000  # characters of a class's name, or of a module's place
DEPTH = 100  # of modules in modules
MODULES = 100_000  # and their tensors


class TorchFileError(ValueError):
    """A file that is refused: one line that says why, and the remedy."""


class Placeholder:
    """A class or function that was not imported, or what its call would have returned: inert.

    name: of the class or function, with its module. args, kwargs: of the call; args is None for the
    class or function itself. state: what its attributes were to be set from. entries: set in it, if
    it is a kind of dict.
    """

    __slots__ = ("name", "args", "kwargs", "state", "entries")

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[Any, Any] | None = None,
        state: Any = None,
    ):
        self.name, self.args, self.kwargs, self.state = name, args, kwargs or {}, state
        self.entries: dict[Any, Any] = {}

    def __repr__(self) -> str:
        return f"<{listed([self.name])}, not loaded>"

    @property
    def class_name(self) -> str:
        """The name without its module."""
        return self.name.rpartition(".")[2]

    @property
    def attributes(self) -> dict[Any, Any]:
        """The attributes that the object had, by name."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[Any, Any] = {}
        for state in states[:2]:  # of __dict__, and of __slots__
            found |= entries_of(state) or {}
        return found

    @property
    def init_kwargs(self) -> dict[Any, Any]:
        """The keyword arguments that it was made with, where its class recorded them."""
        return dict(entries_of(self.attributes.get("_init_kwargs")) or {})


def state_dict_of(module: Any) -> dict[str, np.ndarray]:
    """The state dict of a pickled torch.nn.Module: "encoder.0.weight" -> array, in its order.

    Raises TorchFileError where it is none, or holds itself.
    """
    state: dict[str, np.ndarray] = {}
    stack: list[tuple[str, int, Any]] = [("", 0, module)]
    visited = 0
    while stack:
        prefix, depth, module = stack.pop()
        attributes = module.attributes if isinstance(module, Placeholder) else {}
        parameters, buffers, modules = (
            entries_of(attributes.get(f"_{kind}")) for kind in ("parameters", "buffers", "modules")
        )
        where = listed([prefix.removesuffix(".") or "the object"])
        if parameters is None or buffers is None or modules is None:
            raise TorchFileError(f"{where} is no torch.nn.Module but {described(module)}")
        # A module may stand at several places, but not at 2^60 of them, nor in itself.
        visited += 1 + len(parameters) + len(buffers) + len(modules)
        if depth > DEPTH or visited > MODULES or len(prefix) > NAME:
            raise TorchFileError(f"its modules are nested without end, as in {where}")
        passing = attributes.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, set | frozenset) else ()
        kept = {name: tensor for name, tensor in buffers.items() if name not in passing}
        for name, tensor in (parameters | kept).items():
            if tensor is None:
                continue
            if not isinstance(tensor, np.ndarray):
                where = listed([f"{prefix}{name}"])
                raise TorchFileError(
                    f"{where} is no tensor that can be read, but {described(tensor)}"
                )
            state[f"{prefix}{name}"] = tensor
        stack += reversed(
            [(f"{prefix}{name}.", depth + 1, m) for name, m in modules.items() if m is not None]
        )
    return state


def entries_of(value: Any) -> dict[Any, Any] | None:
    """A dict, or what was set in an object of a class of dicts; None for all else."""
    if isinstance(value, Placeholder):
        return value.entries if value.args is not None else None
    return value if isinstance(value, dict) else None


def described(value: Any) -> str:
    """A value of a pickle for a message: never the whole of it, which may have no end."""
    if isinstance(value, Placeholder):
        return (
            listed([value.name]) if value.args is None else f"an object of {listed([value.name])}"
        )
    if isinstance(value, int) and value.bit_length() < 100:
        return str(value)
    return f"a {type(value).__name__}"
