"""The one step of training, the same for every objective, and compiled over a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pdae_jax.networks.groups import Networks, Params
from pdae_jax.runtime import sharding
from pdae_jax.schedule import Schedule
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import Objective
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState

TIME_RANGES = 4

Drawn = dict[str, Any]
Metrics = dict[str, jax.Array]


def compiled_step(
    objective: Objective,
    net: Networks,
    schedule: Schedule,
    settings: Settings,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    frozen: Params,
    *,
    dropout: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted step over a mesh, (state, frozen, batch, rng) -> (state, metrics); donates state.

    state, frozen: arrays or their shapes. batch: what the objective reads, over the batch's axes;
    rng: a run's key, of which every step takes its own. dropout: whether the trained networks
    have any.
    """
    update = make_update(objective, net, schedule, settings)
    over_batch, everywhere = sharding.over_batch(mesh), sharding.replicated(mesh)

    def step(
        state: TrainState, frozen: Params, batch: dict[str, jax.Array], rng: jax.Array
    ) -> tuple[TrainState, Metrics]:
        draw, rng_dropout = jax.random.split(jax.random.fold_in(rng, state.step))
        drawn = objective.draw(draw, batch, schedule.T)
        drawn = jax.lax.with_sharding_constraint(drawn, over_batch)
        return update(state, frozen, drawn, rng_dropout if dropout else None)

    places = sharding.placed(mesh, state, net.dtype)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(places, sharding.placed(mesh, frozen, net.dtype), over_batch, everywhere),
        out_shardings=(places, everywhere),
    )


def make_update(
    objective: Objective, net: Networks, schedule: Schedule, settings: Settings
) -> Callable[..., tuple[TrainState, Metrics]]:
    """update(state, frozen, drawn, dropout) -> (state, metrics), pure.

    drawn: `Objective.draw`'s; dropout: a key or None. A step whose loss or gradient is not finite
    changes nothing but the counters. The EMA follows every step that was not, from the first.
    """
    optimizer, weight = settings.optimizer(), settings.loss_weight(schedule)

    def mean_loss(
        params: Params, frozen: Params, drawn: Drawn, dropout: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        losses = objective.loss(Given(net, schedule, {**frozen, **params}, weight, dropout), drawn)
        return losses.mean(), losses

    def gradient(
        params: Params, frozen: Params, drawn: Drawn, dropout: jax.Array | None
    ) -> tuple[jax.Array, Params]:
        (_, losses), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            params, frozen, drawn, dropout
        )
        return losses, grads

    def accumulated(
        params: Params, frozen: Params, drawn: Drawn, dropout: jax.Array | None
    ) -> tuple[jax.Array, Params]:
        """The same over micro-batches, every n-th example each: one in memory at a time."""
        n = settings.accumulate
        split = jax.tree.map(lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1), drawn)

        def one(grads: Params, item: tuple[jax.Array, Drawn]) -> tuple[Params, jax.Array]:
            i, drawn = item
            rng = None if dropout is None else jax.random.fold_in(dropout, i)
            losses, more = gradient(params, frozen, drawn, rng)
            return jax.tree.map(lambda a, b: a + b / n, grads, more), losses

        grads, losses = jax.lax.scan(
            one, jax.tree.map(jnp.zeros_like, params), (jnp.arange(n), split)
        )
        return losses.T.reshape(-1), grads

    def update(
        state: TrainState, frozen: Params, drawn: Drawn, dropout: jax.Array | None
    ) -> tuple[TrainState, Metrics]:
        compute = gradient if settings.accumulate == 1 else accumulated
        losses, grads = compute(state.params, frozen, drawn, dropout)
        loss, norm = losses.mean(), optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = jax.tree.map(
            lambda e, p: settings.average * e + (1 - settings.average) * p, state.ema, params
        )
        changed = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema, opt_state),
            (state.params, state.ema, state.opt_state),
        )
        bad = (~finite).astype(jnp.int32)
        params, ema, opt_state = changed
        state = TrainState(
            step=state.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
            skipped=state.skipped + bad,
            skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
        )
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "skipped": state.skipped,
            "skipped_in_a_row": state.skipped_in_a_row,
        }
        if "t" in drawn:
            metrics["time_sums"], metrics["time_counts"] = by_time(losses, drawn["t"], schedule.T)
        return state, metrics

    return update


def by_time(losses: jax.Array, t: jax.Array, T: int) -> tuple[jax.Array, jax.Array]:
    """Sum of the losses, and number of examples, in each of TIME_RANGES equal ranges of t."""
    finite = jnp.isfinite(losses)  # one bad example must not hide the others
    member = jax.nn.one_hot(t * TIME_RANGES // T, TIME_RANGES) * finite[:, None]
    return jnp.where(finite, losses, 0) @ member, member.sum(0)
