"""Softmax attention: cuDNN's, which never writes its logits, where a GPU's agrees, else XLA's."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

Heads = Float[Array, "B n head c"]  # queries, keys or values of n pixels

HALVES = (jnp.bfloat16, jnp.float16)  # cuDNN has no other
TOLERANCE = 0.02  # of a trial's norm; a number in bfloat16 is rounded by up to 0.004 of itself
_elsewhere = False  # whether programs are traced for a GPU that is not here


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """softmax(q k^T / sqrt(c)) v over all pixels.

    cuDNN's where the program runs on an NVIDIA GPU on which it was tried out: what it can do
    depends on the card, on cuDNN's version and on the sizes.
    """
    if q.dtype in HALVES and (_documented if _elsewhere else agrees)(q.dtype, *q.shape[1:]):
        return jax.lax.platform_dependent(q, k, v, cuda=by_cudnn, default=by_xla)
    return by_xla(q, k, v)


def by_xla(q: Heads, k: Heads, v: Heads) -> Heads:
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def by_cudnn(q: Heads, k: Heads, v: Heads) -> Heads:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@functools.cache
def agrees(dtype: DTypeLike, pixels: int, heads: int, size: int) -> bool:
    """Whether cuDNN computes these sizes on this machine, and what XLA does: tried out, once.

    Two images' attention and its gradients, to 2 % of their norm.
    """
    if jax.default_backend() != "gpu":
        return False
    with jax.ensure_compile_time_eval():  # a program is being traced
        keys = jax.random.split(jax.random.key(0), 4)
        *qkv, g = (jax.random.normal(key, (2, pixels, heads, size), dtype) for key in keys)

        def tried(attention: Callable[[Heads, Heads, Heads], Heads]) -> list[Array]:
            def both(g: Heads, *qkv: Heads) -> list[Array]:
                out, gradients = jax.vjp(attention, *qkv)
                return [x.astype(jnp.float32) for x in (out, *gradients(g))]

            return jax.jit(both)(g, *qkv)

        try:
            found = tried(by_cudnn)
        except Exception:  # no cuDNN, a card or sizes that it has no algorithm for: of many kinds
            return False
        differences = [
            float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in zip(found, tried(by_xla))
        ]
    if all(difference <= TOLERANCE for difference in differences):  # a NaN is not
        return True
    logging.getLogger(__name__).warning(
        f"cuDNN's attention of {heads} heads of {size} over {pixels} pixels differs from XLA's by "
        f"{max(differences):.2g} of its norm: XLA's is used"
    )
    return False


def _documented(dtype: DTypeLike, pixels: int, heads: int, size: int) -> bool:
    return size <= 128 and size % 8 == 0


@contextlib.contextmanager
def for_a_gpu_elsewhere(cudnn: int) -> Iterator[None]:
    """Programs traced within take cuDNN's where it is documented for all cards, untried.

    cudnn: its version, such as 91200. Compiling needs no library, but JAX asks the installed one
    for its version; should JAX come to ask otherwise, XLA's attention stays.
    """
    global _elsewhere
    from jax._src.cudnn import fused_attention_stablehlo as asking

    asked = getattr(asking, "check_cudnn_version", None)
    if asked is None or jax.default_backend() == "gpu":
        yield
        return
    _elsewhere, asking.check_cudnn_version = True, lambda: cudnn
    try:
        yield
    finally:
        _elsewhere, asking.check_cudnn_version = False, asked
