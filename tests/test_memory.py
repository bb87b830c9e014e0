"""What a run keeps on a device, what makes it less, and what is said where it is too much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import DIGITS_ARCH as ARCH
from helpers import run_program

from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import sharding
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training import memory
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState

ROW = OBJECTIVES["pdae"]
TWO_LEVELS = dataclasses.replace(ARCH, mult=(1, 2))  # between which maps are doubled


def as_trained(net):
    """Parameters where nothing is zero, and what a step draws."""
    params = jax.jit(lambda: net.init(jax.random.key(0), ("dpm", "encoder", "gradient")))()
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = treedef.unflatten(
        [p + 0.05 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)]
    )
    images = jax.random.randint(jax.random.key(2), (4, *net.arch.image_shape), 0, 256).astype(
        jnp.uint8
    )
    return params, ROW.draw(jax.random.key(3), {"image": images}, ARCH.T)


def loss_and_gradients(net, frozen, trained, drawn):
    def loss(trained, frozen):  # frozen ones too are arguments: of constants XLA knows more
        given = Given(net, SCHEDULES["linear"](ARCH.T), {**frozen, **trained})
        return ROW.loss(given, drawn).mean()

    return jax.jit(jax.value_and_grad(loss))(trained, frozen)


def kept_for_backward(net, frozen, trained, drawn) -> int:
    """Bytes of what a forward pass leaves for the backward one, without the parameters."""

    def backward(trained):
        return jax.vjp(
            lambda trained: ROW.loss(
                Given(net, SCHEDULES["linear"](ARCH.T), {**frozen, **trained}), drawn
            ).mean(),
            trained,
        )[1]

    return sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(jax.eval_shape(backward, trained))
    )


def split(params):
    return {"dpm": params["dpm"]}, {name: params[name] for name in ROW.trains}


@pytest.mark.slow
def test_rematerialisation_keeps_less_and_changes_nothing(optimised):
    params, drawn = as_trained(Networks(ARCH))
    frozen, trained = split(params)
    plain, remat = (
        loss_and_gradients(Networks(ARCH, remat=flag), frozen, trained, drawn)
        for flag in (False, True)
    )
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))
    assert kept_for_backward(
        Networks(ARCH, remat=True), frozen, trained, drawn
    ) < 0.6 * kept_for_backward(Networks(ARCH), frozen, trained, drawn)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_frozen_parameters_change_no_number(dtype):
    net = Networks(TWO_LEVELS, dtype)
    params, drawn = as_trained(net)
    frozen, trained = split(params)
    kept = net.frozen(frozen)
    assert any(path[-1] == "taps" for path in flatten_dict(kept))
    kernels = [leaf for leaf in jax.tree.leaves(kept) if leaf.ndim > 1]
    assert kernels and all(leaf.dtype == dtype for leaf in kernels)
    full, ready = (loss_and_gradients(net, tree, trained, drawn) for tree in (frozen, kept))
    jax.tree.map(np.testing.assert_array_equal, full, ready)
    jax.tree.map(np.testing.assert_array_equal, net.frozen(kept), kept)


@pytest.mark.parametrize(
    "arch",
    [TWO_LEVELS, dataclasses.replace(TWO_LEVELS, up=("conv",))],
    ids=["residual", "conv"],
)
def test_frozen_up_convolutions_have_their_taps_summed(arch):
    net = Networks(arch, jnp.bfloat16)
    given = net.shapes(("dpm", "gradient"))
    for group, tree in jax.eval_shape(net.frozen, given).items():
        before, after = flatten_dict(given[group]), flatten_dict(tree)
        ups = {path[:-1] for path in after if path[-1] == "taps"}
        assert len(ups) == 1
        assert before.keys() - after.keys() == {(*path, "kernel") for path in ups}
        for (*layer, name), leaf in after.items():
            kernel = after.get((*layer, "kernel"), after.get((*layer, "taps")))
            rounded = kernel is not None and (name != "bias" or kernel.ndim == 4)
            assert leaf.dtype == (jnp.bfloat16 if rounded else jnp.float32)


@pytest.mark.slow
def test_the_bytes_told_are_the_bytes_there():
    done = run_program("bytes_per_device", devices=8)
    told, there, whole = map(int, done.stdout.split())
    assert told == there and 0.25 * whole < there < 0.35 * whole


def test_the_table_adds_up():
    mesh, net = sharding.make_mesh(), Networks(TWO_LEVELS)
    state = jax.eval_shape(
        lambda: TrainState.create(
            net.init(jax.random.key(0), ("encoder", "gradient")), Settings().optimizer()
        )
    )
    plain = net.shapes(("dpm",))
    frozen = jax.eval_shape(net.frozen, plain)
    lines = memory.table(sharding.shapes(mesh, state), sharding.shapes(mesh, frozen)).splitlines()
    rows = {line.split()[0]: line.split() for line in lines[1:-1]}
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params["encoder"])) * 4 / 1e6
    name, arrays, count, weights, average, moments, gradients, total, fate = rows["encoder"]
    assert float(weights) == float(average) == float(gradients) == pytest.approx(size, abs=0.06)
    assert float(moments) == pytest.approx(2 * size, abs=0.06) and fate == "trained"
    assert float(total) == pytest.approx(5 * size, abs=0.06)
    assert rows["dpm"][-1] == "frozen" and len(rows["dpm"]) == 6
    assert rows["dpm"][2] == f"{sum(leaf.size for leaf in jax.tree.leaves(plain)):,}"
    assert float(lines[-1].split()[-1]) == pytest.approx(
        sum(float(row[-2]) for row in rows.values()), abs=0.2
    )


def test_running_out_of_memory_is_one_line_with_what_to_set():
    advice = memory.advice("pdae", Settings(batch_size=8), sharding.make_mesh(), "float32")
    with pytest.raises(ValueError) as caught, memory.shortage(advice):
        jax.block_until_ready(jnp.zeros(2**45, jnp.uint8))
    said = str(caught.value)
    assert "\n" not in said and said.startswith("out of memory (")
    for flag in ("precision=bfloat16", "pdae.accumulate=2", "pdae.remat=True", "pdae.batch_size"):
        assert f"--config.{flag}" in said
    # What is set already, or cannot be, is not advised.
    again = memory.advice(
        "pdae", Settings(batch_size=3, remat=True), sharding.make_mesh(), "bfloat16"
    )
    assert again == "set a smaller --config.pdae.batch_size"
    assert "remat" not in memory.advice("latent", Settings(), sharding.make_mesh(), "float32")


def test_other_errors_pass():
    with pytest.raises(TypeError), memory.shortage(""):
        jnp.zeros(3) + "x"
