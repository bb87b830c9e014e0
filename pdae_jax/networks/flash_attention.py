"""Softmax attention: cuDNN's, which keeps no logits, where a GPU's agrees, else XLA's."""

import contextlib
import functools
import logging
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pdae_jax.runtime import processes, sharding

Heads = Float[Array, "B n head c"]  # queries, keys or values of n pixels

TOLERANCE = 0.02  # of a trial's norm; a number in bfloat16 is rounded by up to 0.004 of itself
_told: bool | None = None  # whether cuDNN's is taken, where none is tried out


def attend(q: Heads, k: Heads, v: Heads) -> Heads:
    """softmax(q k^T / sqrt(c)) v over all pixels.

    In bfloat16, of heads of up to 128 numbers (a multiple of 8), cuDNN's where the program runs on
    an NVIDIA GPU on which it was tried out: what it can do depends on the card, on cuDNN's version
    and on the sizes. Differentiable once, backward.
    """
    _, pixels, heads, size = q.shape
    if q.dtype == jnp.bfloat16 and size <= 128 and size % 8 == 0:
        if agrees(pixels, heads, size) if _told is None else _told:
            return jax.lax.platform_dependent(q, k, v, cuda=by_cudnn, default=by_xla)
    return by_xla(q, k, v)


def by_xla(q: Heads, k: Heads, v: Heads) -> Heads:
    return jax.nn.dot_product_attention(q, k, v, implementation="xla")


def by_cudnn(q: Heads, k: Heads, v: Heads) -> Heads:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@functools.cache
def agrees(pixels: int, heads: int, size: int) -> bool:
    """Whether cuDNN computes what XLA does, of these sizes, on the cards of all processes.

    Tried out once: the attention of two images of random numbers, and its gradients. All processes
    compile the same programs, so that all ask; where one's fails, all use XLA's, and it is said.
    What one traces alone, or only to count, is traced `untried`.
    """
    if not sharding.is_nvidias(jax.devices()[0]):
        return False
    # In a thread of its own nothing is being traced: there programs run, and processes talk.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_tried_out, pixels, heads, size).result()


def _tried_out(pixels: int, heads: int, size: int) -> bool:
    try:
        difference = _difference(pixels, heads, size)
        found = f"differs from XLA's by {difference:.2g} of its norm"
    except Exception as error:  # no cuDNN, a card or sizes that it is not for: of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        difference, found = math.inf, f"fails ({reason[:120]})"
    agree = difference <= TOLERANCE  # a NaN is not
    if not agree:
        logging.getLogger(__name__).warning(
            f"cuDNN's attention of {heads} heads of {size} over {pixels} pixels {found}: XLA's is "
            f"used"
        )
    return int(processes.sums(np.array([agree], np.uint32)).sum()) == processes.count()


def _difference(pixels: int, heads: int, size: int) -> float:
    """The largest of attention and its three gradients, each as a share of XLA's norm."""
    keys = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(keys[0], (2, pixels, 3, heads, size), jnp.bfloat16)
    g = jax.random.normal(keys[1], (2, pixels, heads, size), jnp.bfloat16)

    def tried(attention: Callable[[Heads, Heads, Heads], Heads]) -> list[np.ndarray]:
        def both(qkv: Array, g: Heads) -> tuple[Heads, Array]:
            # Logits of a few units, as where attention has learned to tell pixels apart.
            out, gradient = jax.vjp(
                lambda x: attention(3 * x[:, :, 0], x[:, :, 1], x[:, :, 2]), qkv
            )
            return out, gradient(g)[0]

        out, gradient = jax.jit(both)(qkv, g)
        return [np.asarray(x, np.float32) for x in (out, *jnp.moveaxis(gradient, 2, 0))]

    pairs = zip(tried(by_cudnn), tried(by_xla))
    # Of one pixel the gradients by q and k are 0.
    shares = [np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3) for a, b in pairs]
    return float(np.max(shares))


@contextlib.contextmanager
def untried(by_cudnns: bool) -> Iterator[None]:
    """Functions traced for the first time within take cuDNN's attention, or else XLA's.

    Nothing runs, and no other process is asked. Not for several threads.
    """
    global _told
    before, _told = _told, by_cudnns
    try:
        yield
    finally:
        _told = before


@contextlib.contextmanager
def for_a_gpu_elsewhere(cudnn: int) -> Iterator[None]:
    """Functions traced for the first time within take cuDNN's attention untried.

    It is documented for cards since the A100. cudnn: its version, such as 91200: compiling needs no
    library, but JAX asks the installed one for its version. Should JAX come to ask otherwise, XLA's
    attention stays. Not for several threads.
    """
    name = "check_cudnn_version"
    asking = sys.modules.get("jax._src.cudnn.fused_attention_stablehlo")
    asked = getattr(asking, name, None)
    if asked is not None:
        setattr(asking, name, lambda: cudnn)
    try:
        with untried(_can_be_traced()):
            yield
    finally:
        if asked is not None:
            setattr(asking, name, asked)


def _can_be_traced() -> bool:
    x = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(lambda *qkv: by_cudnn(*qkv), x, x, x)
    except Exception:  # of JAX's choice
        return False
    return True
