"""cuDNN's attention is taken where it was tried out and agrees, and nowhere else."""

import jax
import jax.numpy as jnp
import pytest

from pdae_jax.networks import flash_attention


def heads(dtype=jnp.bfloat16, pixels=16, heads=2, size=8):
    keys = jax.random.split(jax.random.key(1), 3)
    return [jax.random.normal(key, (3, pixels, heads, size), dtype) for key in keys]


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As where JAX has found a GPU, of which cuDNN's attention is given."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    flash_attention.agrees.cache_clear()
    yield lambda by_cudnn: monkeypatch.setattr(flash_attention, "by_cudnn", by_cudnn)
    flash_attention.agrees.cache_clear()


def by_float32(q, k, v):
    exact = flash_attention.by_xla(*(x.astype(jnp.float32) for x in (q, k, v)))
    return exact.astype(q.dtype)


def unscaled(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, scale=1.0)


def no_number(q, k, v):
    return by_float32(q, k, v) * jnp.nan


def backwards_wrong(q, k, v):
    return by_float32(q, jax.lax.stop_gradient(k), v)


def asked(attention):
    """Whether a program takes cuDNN's attention on a GPU."""
    text = jax.jit(attention).trace(*heads()).lower(lowering_platforms=("cuda",)).as_text()
    return "__cudnn$fmhaSoftmax" in text


def test_without_a_gpu_it_is_xlas():
    q, k, v = heads()
    assert not flash_attention.agrees(q.dtype, *q.shape[1:])
    assert (flash_attention.attend(q, k, v) == flash_attention.by_xla(q, k, v)).all()
    assert not asked(flash_attention.attend)


def test_what_cannot_be_tried_out_is_not_used(on_a_gpu):
    """JAX's own refusal: this process has no cuDNN."""
    q, k, v = heads()
    assert not flash_attention.agrees(q.dtype, *q.shape[1:])
    assert not asked(flash_attention.attend)


def test_what_agrees_is_used_also_while_a_program_is_traced(on_a_gpu):
    on_a_gpu(by_float32)

    def loss(*qkv):
        def body(x, _):
            return flash_attention.attend(x, *qkv[1:]), None

        return jax.lax.scan(body, qkv[0], None, length=2)[0].astype(jnp.float32).sum()

    found = jax.jit(jax.grad(loss)).trace(*heads()).lower(lowering_platforms=("cuda",)).as_text()
    assert flash_attention.agrees.cache_info().currsize == 1
    assert flash_attention.agrees(jnp.dtype(jnp.bfloat16), 16, 2, 8)
    plain = jax.jit(jax.grad(loss)).trace(*heads()).lower(lowering_platforms=("cpu",)).as_text()
    assert found != plain  # of each platform its own


@pytest.mark.parametrize("wrong", [unscaled, no_number, backwards_wrong])
def test_what_differs_is_not_used_and_said(on_a_gpu, wrong, caplog):
    on_a_gpu(wrong)
    q, k, v = heads()
    assert not flash_attention.agrees(q.dtype, *q.shape[1:])
    (line,) = caplog.messages
    assert line.startswith("cuDNN's attention of 2 heads of 8 over 16 pixels differs from XLA's")


def test_float32_is_xlas_and_tries_nothing(on_a_gpu):
    on_a_gpu(by_float32)
    flash_attention.attend(*heads(jnp.float32))
    assert flash_attention.agrees.cache_info().currsize == 0


@pytest.mark.parametrize("size, has_it", [(64, True), (128, True), (12, False), (136, False)])
def test_for_a_gpu_elsewhere_it_goes_by_the_heads_size(size, has_it):
    def program(*qkv):
        lowered = jax.jit(lambda *qkv: flash_attention.attend(*qkv)).trace(*qkv)
        return lowered.lower(lowering_platforms=("cuda",)).as_text()

    qkv = heads(size=size)
    with flash_attention.for_a_gpu_elsewhere(91200):
        assert ("__cudnn$fmhaSoftmax" in program(*qkv)) == has_it
        assert "__cudnn$fmha" not in program(*heads(jnp.float32, size=size))
    assert "__cudnn$fmha" not in program(*qkv)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU")
@pytest.mark.parametrize("pixels, n, size", [(256, 4, 64), (64, 8, 64), (64, 4, 128)])
def test_on_a_card_it_agrees(pixels, n, size):
    assert flash_attention.agrees(jnp.dtype(jnp.bfloat16), pixels, n, size)
