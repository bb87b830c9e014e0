"""The log of a training: the progress line, scalars, picture grids, and their records."""

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from pdae_jax.data.dataset import Data
from pdae_jax.runtime import processes
from pdae_jax.workdir.records import Records

NAMED_AT_ONCE = 5


class Log:
    """One run's display and records: a progress bar, `Records`, and TensorBoard by clu.

    Without clu or TensorFlow there is no TensorBoard file, and one line says so. On a terminal
    the progress is a bar; elsewhere a line every log step. Only process 0 writes, but for the
    broken pictures of another's share.
    """

    def __init__(self, records: Records, name: str, start: int, steps: int, batch_size: int):
        self.main = processes.writes()
        self.records, self.name, self.batch_size = records, name, batch_size
        self.writer = _tensorboard(records) if self.main else None
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (self.main and sys.stderr.isatty()),
            file=sys.stderr,
        )
        self.step, self.steps, self.rate, self.idle_seconds = start, steps, 0.0, 0.0
        self._named: set[str] = set()
        self._clipped = False
        self._tick: float | None = None
        self._tick_step = start
        self._thread = ThreadPoolExecutor(1)  # in which the device is waited for

    def begin(self, data: Data, settings: dict[str, Any]) -> None:
        """Records data and settings, and removes the scalars of steps that are repeated."""
        if self.main:
            self.records.forget_after(self.step)
            self.records.add_data(data)
            self.records.add_settings(self.step, settings)

    @contextlib.contextmanager
    def untimed(self, step: int, state: Any) -> Iterator[None]:
        """Leaves what is done within (compilation, pictures, saves) out of the images a second.

        step: the steps done when it ends. state: arrays to wait for first, so that the steps
        under way are not left out with it.
        """
        jax.block_until_ready(state)
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._tick is None:
            self._tick, self._tick_step, self.idle_seconds = now, step, 0.0
        else:
            self._tick += now - began

    @contextlib.contextmanager
    def idle(self, last: jax.Array | None = None) -> Iterator[None]:
        """Counts as idle the part of what is done within for which the device has no work.

        last: a result of the last step; until it is there the device is busy.
        """
        idle_since: list[float] = []

        def wait(result: jax.Array) -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # which the loop meets itself
                result.block_until_ready()
                idle_since.append(time.perf_counter())

        if last is None or last.is_ready():  # pyright: ignore[reportAttributeAccessIssue] - stubs
            idle_since.append(time.perf_counter())
        else:
            self._thread.submit(wait, last)
        yield
        if idle_since:
            self.idle_seconds += time.perf_counter() - idle_since[0]

    def progress(self, step: int, loss: float, **more: Any) -> None:
        """Advances the progress to `step`; called where the device has finished it."""
        now = time.perf_counter()
        if self._tick is not None and step > self._tick_step and now > self._tick:
            self.rate = (step - self._tick_step) * self.batch_size / (now - self._tick)
            more = {"idle": f"{min(1.0, self.idle_seconds / (now - self._tick)):.0%}", **more}
        self._tick, self._tick_step, self.idle_seconds = now, step, 0.0
        rate = f"{self.rate:.0f}" if self.rate else "?"
        shown = {"loss": f"{loss:.4f}", "images/s": rate, **more}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.step)
        self.step = step
        if self.main and self.bar.disable:
            left = (self.steps - step) * self.batch_size / self.rate if self.rate else None
            eta = "?" if left is None else tqdm.format_interval(left)
            words = "  ".join(f"{k} {v}" for k, v in shown.items())
            line = f"{self.name} {step}/{self.steps}  {words}  ETA {eta}"
            print(line, file=sys.stderr, flush=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values that are finite: JSON and TensorBoard know no NaN."""
        values = {name: value for name, value in values.items() if np.isfinite(value)}
        if self.main:
            self.records.add_scalars(step, values)
        if self.writer:
            self.writer.write_scalars(step, {f"{self.name}/{k}": v for k, v in values.items()})

    def add_seconds(self, seconds: float) -> None:
        """Records the time of a finished stretch."""
        if self.main:
            self.records.add_seconds(self.step, seconds)

    def pictures(self, step: int, grids: Mapping[str, np.ndarray]) -> None:
        """grids: name -> uint8 [H, W, 1 or 3]; as PNGs, and for TensorBoard."""
        if self.main:
            for name, grid in grids.items():
                self.records.add_picture(step, name, grid)
        if self.writer:
            self.writer.write_images(step, {f"{self.name}/{k}": v[None] for k, v in grids.items()})
            self.writer.flush()

    def broken_pictures(self, broken: Mapping[str, str]) -> None:
        """Names broken pictures that were not named yet, a few of many; each process its own."""
        new = {path: reason for path, reason in broken.items() if path not in self._named}
        if not new:
            return
        self._named |= set(new)
        few = list(new.items())[:NAMED_AT_ONCE]
        lines = [f"broken picture skipped: {path} ({reason})" for path, reason in few]
        if len(new) > NAMED_AT_ONCE:
            everything = self.records.broken_list(processes.index())
            lines.append(f"and {len(new) - NAMED_AT_ONCE} more; all are in {everything}")
        for line in lines:
            tqdm.write(line, file=sys.stderr)
        self.records.add_broken(new, processes.index())

    def clipped_pictures(self, paths: Collection[str]) -> None:
        """Names the first pictures with values out of the range; each process its own."""
        if paths and not self._clipped:
            first = min(paths)
            tqdm.write(
                f"values out of the range, clipped to it: {first}"
                + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
                + '; "clipped" counts such pictures',
                file=sys.stderr,
            )
            self._clipped = True

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        if self.main:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        self._thread.shutdown()
        if self.writer:
            self.writer.flush()


def _tensorboard(records: Records) -> Any:
    """clu's writer of event files, beside the records; None where it is not installed."""
    try:
        from clu.metric_writers import SummaryWriter

        return SummaryWriter(str(records.folder))
    except ImportError as error:
        tqdm.write(
            f"no TensorBoard file ({error}; pip install 'pdae_jax[tensorboard]' brings it): "
            f"scalars are recorded without it",
            file=sys.stderr,
        )
        return None
