"""Programs of the device: compiled once for each shape, with word of it, and kept on disk."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from pdae_jax.runtime import processes

CACHE = "~/.cache/pdae_jax/xla"
# Of a device_kind, what XLA is asked for beside its defaults. Of the 128 MiB on a v5e a kernel may
# take 16: with more, convolutions work in larger pieces. Not for a training step, which gains less
# and compiles far longer (docs/performance.md).
OPTIONS = {"TPU v5 lite": {"xla_tpu_scoped_vmem_limit_kib": 32 * 1024}}
PATIENCE = 2.0  # seconds of silence before a compilation is spoken of


def keep_on_disk(folder: str | None = None) -> None:
    """Keeps compiled programs between starts, so that a second one does not compile again.

    folder: None for JAX's own setting (the variable JAX_COMPILATION_CACHE_DIR), or else a default.
    JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
    """
    # JAX adds its configuration's attributes while it is imported.
    if folder is None and jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder or CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def options(device: Any) -> dict[str, Any]:
    """XLA's options of a `Program` on a device."""
    return OPTIONS.get(device.device_kind, {})


@contextlib.contextmanager
def compiling(words: str) -> Iterator[None]:
    """Says that a compilation is under way, where it takes long, and then how long it took."""
    said = threading.Event()

    def say(text: str) -> None:
        from tqdm import tqdm  # not needed by what only computes

        said.set()
        tqdm.write(text, file=sys.stderr)

    timer = threading.Timer(PATIENCE, say, [f"compiling {words} ..."])
    began = time.perf_counter()
    timer.daemon = True
    if processes.writes():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if said.is_set():
        say(f"compiled {words} in {time.perf_counter() - began:.0f} s")


class Program:
    """A function of arrays and static settings, compiled once for each of their shapes.

    words: what it does, for the line that says that it compiles.
    """

    def __init__(self, function: Callable[..., Any], words: str):
        self.function, self.words = function, words
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *arrays: Any, **static: Any) -> Any:
        leaves, tree = jax.tree.flatten(arrays)
        key = tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves), tuple(static.items())
        if key not in self._compiled:
            with compiling(self.words):
                lowered = jax.jit(self.function, static_argnames=tuple(static)).lower(
                    *arrays, **static
                )
                self._compiled[key] = lowered.compile(compiler_options=options(jax.devices()[0]))
        return self._compiled[key](*arrays)

    def shapes(self, *arrays: Any, **static: Any) -> Any:
        """The shapes of the result; nothing is computed."""
        return jax.eval_shape(lambda *a: self.function(*a, **static), *arrays)
