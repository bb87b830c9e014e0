"""cuDNN's attention is taken where it was tried out and agrees, and nowhere else."""

import dataclasses
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH

from pdae_jax.networks import flash_attention
from pdae_jax.runtime import processes, sharding
from pdae_jax.training import memory


def heads(dtype=jnp.bfloat16, pixels=16, heads=2, size=8):
    keys = jax.random.split(jax.random.key(1), 3)
    return [jax.random.normal(key, (3, pixels, heads, size), dtype) for key in keys]


@pytest.fixture
def on_a_gpu(monkeypatch, caplog):
    """As where JAX has found a GPU, of which cuDNN's attention is given."""
    caplog.set_level(logging.WARNING)  # absl lowers the root's where a command ran before
    monkeypatch.setattr(sharding, "is_nvidias", lambda device: True)
    flash_attention.agrees.cache_clear()
    yield lambda by_cudnn: monkeypatch.setattr(flash_attention, "by_cudnn", by_cudnn)
    flash_attention.agrees.cache_clear()


@jax.custom_vjp
def exact(q, k, v):
    """Attention in float32, rounded once: as near to the truth as another library may be."""
    out = flash_attention.by_xla(*(x.astype(jnp.float32) for x in (q, k, v)))
    return out.astype(q.dtype)


def backward(kept, g):
    wide = [x.astype(jnp.float32) for x in kept]
    gradients = jax.vjp(flash_attention.by_xla, *wide)[1](g.astype(jnp.float32))
    return tuple(x.astype(g.dtype) for x in gradients)


exact.defvjp(lambda *qkv: (exact(*qkv), qkv), backward)


def unscaled(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, scale=1.0)


def no_number(q, k, v):
    return exact(q, k, v) * jnp.nan


def no_gradient_by_k(q, k, v):
    return exact(q, jax.lax.stop_gradient(k), v)


def gradients_are_no_numbers(q, k, v):
    out = exact(q, k, v)
    return out + (out - jax.lax.stop_gradient(out)) * jnp.array([jnp.nan, 0])[0].astype(out.dtype)


def lowered(attention, *qkv, platform="cuda"):
    """A program's text; of a new function, as JAX keeps what it has traced."""
    traced = jax.jit(lambda *qkv: attention(*qkv)).trace(*(qkv or heads()))
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_without_a_gpu_it_is_xlas():
    q, k, v = heads()
    assert not flash_attention.agrees(16, 2, 8)
    assert (flash_attention.attend(q, k, v) == flash_attention.by_xla(q, k, v)).all()
    assert "__cudnn$fmha" not in lowered(flash_attention.attend)


def test_what_fails_is_not_used_and_said(on_a_gpu, caplog):
    """By JAX's own refusal: this process has no cuDNN."""
    assert "__cudnn$fmha" not in lowered(flash_attention.attend)
    (line,) = caplog.messages
    head = r"cuDNN's attention of 2 heads of 8 over 16 pixels fails"
    assert re.fullmatch(head + r" \(.*(cuDNN|dot_product_attention).*\): XLA's is used", line)


def test_what_agrees_is_used_also_while_a_program_is_traced(on_a_gpu, caplog):
    on_a_gpu(lambda *qkv: exact(*qkv))

    def loss(*qkv):
        def body(x, _):
            return flash_attention.attend(x, *qkv[1:]), None

        return jax.lax.scan(body, qkv[0], None, length=2)[0].astype(jnp.float32).sum()

    on_card, on_host = (
        lowered(jax.grad(loss), *heads(), platform=name) for name in ("cuda", "cpu")
    )
    assert flash_attention.agrees.cache_info().currsize == 1 and not caplog.messages
    assert flash_attention.agrees(16, 2, 8)
    assert on_card != on_host


@pytest.mark.parametrize("pixels, n, size", [(1, 1, 8), (64, 4, 64), (256, 2, 128)])
def test_another_rounding_agrees(on_a_gpu, pixels, n, size):
    on_a_gpu(exact)
    assert flash_attention.agrees(pixels, n, size)


@pytest.mark.parametrize(
    "wrong, by",
    [
        (unscaled, r"[\d.]+ "),
        (no_number, "nan"),
        (no_gradient_by_k, "1"),
        (gradients_are_no_numbers, "nan"),
    ],
)
def test_what_differs_is_not_used_and_said(on_a_gpu, wrong, by, caplog):
    on_a_gpu(wrong)
    assert not flash_attention.agrees(16, 2, 8)
    (line,) = caplog.messages
    words = "cuDNN's attention of 2 heads of 8 over 16 pixels differs from XLA's by "
    assert line.startswith(words) and line.endswith(" of its norm: XLA's is used")
    assert re.match(by, line.removeprefix(words))


def test_where_one_process_fails_none_uses_it(on_a_gpu, monkeypatch):
    on_a_gpu(exact)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "sums", lambda numbers: numbers)  # the other's is 0
    assert not flash_attention.agrees(16, 2, 8)
    flash_attention.agrees.cache_clear()
    monkeypatch.setattr(processes, "sums", lambda numbers: numbers + np.uint32(1))
    assert flash_attention.agrees(16, 2, 8)


@pytest.mark.parametrize("of", [dict(dtype=jnp.float32), dict(size=12), dict(size=136)])
def test_what_cudnn_does_not_have_is_xlas_and_not_tried(on_a_gpu, of):
    flash_attention.attend(*heads(**of))
    assert flash_attention.agrees.cache_info().currsize == 0


def test_what_training_takes_of_memory_is_counted_without_a_trial(on_a_gpu):
    """Of several processes the first alone chooses sizes: it must not wait for the others."""
    on_a_gpu(lambda *qkv: 1 / 0)
    arch = dataclasses.replace(DIGITS_ARCH, attention=(8,))
    assert memory.need("pdae", arch, "bfloat16").image > memory.need("pdae", DIGITS_ARCH).image / 2
    assert flash_attention.agrees.cache_info().currsize == 0


@pytest.mark.parametrize("size, has_it", [(64, True), (128, True), (12, False), (136, False)])
def test_for_a_gpu_elsewhere_it_goes_by_the_heads_size(size, has_it):
    qkv = heads(size=size)
    with flash_attention.for_a_gpu_elsewhere(91200):
        with flash_attention.for_a_gpu_elsewhere(91200):
            pass
        assert ("__cudnn$fmhaSoftmax" in lowered(flash_attention.attend, *qkv)) == has_it
        singles = heads(jnp.float32, size=size)
        assert "__cudnn$fmha" not in lowered(flash_attention.attend, *singles)
    assert "__cudnn$fmha" not in lowered(flash_attention.attend, *qkv)


def test_where_jax_cannot_be_told_a_version_it_is_xlas(monkeypatch):
    monkeypatch.setattr(flash_attention, "by_cudnn", lambda *qkv: 1 / 0)
    with flash_attention.for_a_gpu_elsewhere(91200):
        assert "__cudnn$fmha" not in lowered(flash_attention.attend)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("pixels, n, size", [(256, 4, 64), (64, 8, 64), (64, 4, 128)])
def test_on_a_card_it_agrees(pixels, n, size):
    assert flash_attention.agrees(pixels, n, size)
