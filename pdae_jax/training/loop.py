"""The training loop: the same for every objective, whose name it does not know."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self

import jax
import numpy as np

from pdae_jax.networks.groups import Networks, Params
from pdae_jax.runtime import processes, programs, sharding
from pdae_jax.schedule import Schedule
from pdae_jax.training.log import Log
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import Objective
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import TIME_RANGES, compiled_step
from pdae_jax.workdir.checkpoints import Checkpoints


class TrainingError(ValueError):
    """Training cannot continue; the message says what to try."""


@dataclasses.dataclass
class Loop:
    """One run of the loop.

    dropout: whether the trained networks have any. preview: maps all averaged parameters to grids
    to look at, or None.
    """

    objective: Objective
    net: Networks
    schedule: Schedule
    settings: Settings
    mesh: jax.sharding.Mesh
    seed: int = 0
    dropout: bool = False
    preview: Callable[[Params], dict[str, np.ndarray]] | None = None

    def health_fn(self) -> Callable[..., dict[str, jax.Array]] | None:
        """The jitted health lines: (ema, frozen, batch, rng, step) -> scalars; None without any."""
        lines = self.objective.health
        if lines is None or not self.settings.health_every:
            return None

        def health(
            params: Params, frozen: Params, batch: dict[str, jax.Array], rng: jax.Array, step: int
        ) -> dict[str, jax.Array]:
            rng = jax.random.fold_in(jax.random.fold_in(rng, step), 1)  # no draws of the step's own
            n = self.settings.accumulate  # as many examples as one gradient fits
            batch = jax.tree.map(lambda x: x[::n], batch)
            drawn = self.objective.draw(rng, batch, self.schedule.T)
            weight = self.settings.loss_weight(self.schedule)
            return lines(Given(self.net, self.schedule, {**frozen, **params}, weight), drawn)

        return jax.jit(health, out_shardings=sharding.replicated(self.mesh))

    def run(
        self,
        state: TrainState,
        frozen: Params,
        batches: Iterator[dict[str, np.ndarray]],
        checkpoints: Checkpoints,
        log: Log,
    ) -> tuple[TrainState, bool]:
        """Trains from state.step to settings.steps: the last state, and whether it got there.

        batches: dicts with what the objective reads, already at the state's step; the pictures
        that it lists as `broken`, {path: reason}, and as `outside`, paths, are named once.

        It stops early, after a save, when SIGTERM asks (any of several processes), or SIGINT (a
        single one). Raises TrainingError after `max_skipped` non-finite steps in a row.
        """
        settings, step = self.settings, int(state.step)
        train_step = compiled_step(
            self.objective,
            self.net,
            self.schedule,
            settings,
            self.mesh,
            state,
            frozen,
            dropout=self.dropout,
        )
        health = self.health_fn()
        rng = jax.jit(
            lambda: jax.random.key(self.seed),  # on the devices of every process
            out_shardings=sharding.replicated(self.mesh),
        )()
        window, first, saved = [], step, step
        with Stop() as stop:
            while step < settings.steps and not (stop.asked or processes.stop_asked()):
                if len(window) > 1:  # so that batches do not pile up on the device
                    jax.block_until_ready(window[-2])
                with log.idle(window[-1]["loss"] if window else None):
                    batch = next(batches)
                batch = sharding.to_mesh(self.mesh, {k: batch[k] for k in self.objective.reads})
                if step == first:
                    words = f"the training step of {log.name}"
                    with log.untimed(step + 1, state), programs.compiling(words):
                        state, metrics = jax.block_until_ready(
                            train_step(state, frozen, batch, rng)
                        )
                else:
                    state, metrics = train_step(state, frozen, batch, rng)
                window.append(metrics)
                step += 1
                if step % settings.steps_a_line == 0 or step == settings.steps:
                    self._log(step, window, batches, log)
                    window = []
                if health and (step % settings.health_every == 0 or step == settings.steps):
                    with log.untimed(step, state):
                        lines = jax.device_get(health(state.ema, frozen, batch, rng, step))
                    log.scalars(step, {k: float(v) for k, v in lines.items()})
                    log.say(
                        f"{log.name} {step}: " + "  ".join(f"{k} {v:.4g}" for k, v in lines.items())
                    )
                every = settings.pictures_every
                if self.preview and every and step % every == 0:
                    with log.untimed(step, state):
                        params = processes.to_host({**frozen, **state.ema})
                        if processes.writes():
                            log.pictures(step, self.preview(params))
                if step % settings.save_every == 0:
                    with log.untimed(step, state):
                        save(checkpoints, state, step)
                    saved = step
            if window and step < settings.steps:
                self._log(step, window, batches, log)
            if saved != step:
                save(checkpoints, state, step)
            checkpoints.wait()  # while a signal is still only a request
        return state, step >= settings.steps and not stop.asked

    def _log(
        self, step: int, window: list[dict[str, jax.Array]], batches: Iterator[Any], log: Log
    ) -> None:
        metrics = jax.device_get(window)
        losses = np.array([m["loss"] for m in metrics])
        none = np.zeros(TIME_RANGES)  # of an objective that draws no t
        sums, counts = (
            np.sum([m.get(f"time_{name}", none) for m in metrics], axis=0)
            for name in ("sums", "counts")
        )
        skipped = int(metrics[-1]["skipped"])
        scalars = {
            "loss": float(np.nanmean(losses)) if np.isfinite(losses).any() else np.nan,
            "grad_norm": float(np.mean([m["grad_norm"] for m in metrics])),
        }
        edges = np.linspace(0, self.schedule.T, TIME_RANGES + 1).astype(int)
        for i in range(TIME_RANGES):
            if counts[i]:
                scalars[f"loss_t{edges[i]}-{edges[i + 1] - 1}"] = float(sums[i] / counts[i])
        more: dict[str, int] = {}
        broken: dict[str, str] = dict(getattr(batches, "broken", {}))
        if skipped:
            scalars["skipped_steps"] = more["skipped"] = skipped
        log.broken_pictures(broken)
        if n_broken := processes.distinct(broken):
            scalars["broken_pictures"] = more["broken"] = n_broken
        clipped: set[str] = set(getattr(batches, "outside", ()))
        log.clipped_pictures(clipped)
        if n_clipped := processes.distinct(clipped):
            scalars["clipped_pictures"] = more["clipped"] = n_clipped
        log.progress(step, scalars["loss"], **more)
        log.scalars(step, scalars)
        worst = max(int(m["skipped_in_a_row"]) for m in metrics)
        if worst >= self.settings.max_skipped:
            raise TrainingError(
                f"{worst} steps in a row up to step {step} had a loss or gradient that is not "
                f"finite; try a lower learning_rate, clip = 1, a warmup, or precision float32, "
                f"and look at the pictures for NaN; the last checkpoint is from before"
            )


class Stop:
    """Turns the first SIGTERM or SIGINT into a request, so that a run ends with a save."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Of several processes JAX watches for SIGTERM itself: all must stop at the same step.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {s: signal.signal(s, self._ask) for s in self.SIGNALS}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.__exit__()  # a second signal does what it always did

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def save(checkpoints: Checkpoints, state: TrainState, step: int) -> None:
    checkpoints.save(step, state.ema, _without_ema(state))


def restore(checkpoints: Checkpoints, step: int, shapes: TrainState) -> TrainState:
    """The state saved at `step`; shapes: its arrays' shapes, types and shardings, not layouts."""
    items = checkpoints.restore(step, ema=shapes.ema, train=_without_ema(shapes))
    return TrainState(ema=items["ema"], **items["train"])


def _without_ema(state: TrainState) -> dict[str, Any]:
    return {name: value for name, value in state._asdict().items() if name != "ema"}
