"""What a person watches: the progress line, scalars and picture grids."""

import contextlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from pdae_jax.runtime import processes

NAMED_AT_ONCE = 5


class Watch:
    """One run's display and records: a progress bar, metrics.jsonl, and TensorBoard by clu.

    Without clu or TensorFlow there is no TensorBoard file, and one line says so. On a terminal
    the progress is a bar; elsewhere a line every log step. Only process 0 writes, but for the
    broken pictures of another's share.
    """

    def __init__(self, folder: Path, name: str, start: int, steps: int, batch_size: int):
        self.main = processes.writes()
        self.batch_size, self.folder, self._named = batch_size, folder, set()
        self.records = folder / "metrics.jsonl"
        self.writer = _tensorboard(folder) if self.main else None
        self._forget_after(start)
        self.bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            disable=not (self.main and sys.stderr.isatty()),
            file=sys.stderr,
        )
        self.name, self.step, self.steps, self.rate = name, start, steps, 0.0
        self._tick, self._tick_step, self.waited = None, start, 0.0
        self._thread = ThreadPoolExecutor(1)  # in which the device is waited for

    def _forget_after(self, step: int) -> None:
        """A resumed run repeats the steps after its checkpoint: their records go."""
        if self.main and self.records.exists():
            lines = self.records.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            self.records.write_text("".join(kept))

    @contextlib.contextmanager
    def untimed(self, step: int, state):
        """Leaves what is done within (compilation, pictures, saves) out of the images a second.

        step: the steps done when it ends. state: arrays to wait for first, so that the steps
        under way are not left out with it.
        """
        jax.block_until_ready(state)
        began = time.perf_counter()
        yield
        now = time.perf_counter()
        if self._tick is None:
            self._tick, self._tick_step, self.waited = now, step, 0.0
        else:
            self._tick += now - began

    @contextlib.contextmanager
    def idle(self, last: jax.Array | None = None):
        """Counts as waiting the part of what is done within for which the device has nothing to do.

        last: what the last step gives; until it is there the device is busy, and nothing waits.
        """
        idle_since = []

        def watch():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # which the loop meets itself
                last.block_until_ready()
                idle_since.append(time.perf_counter())

        if last is None or last.is_ready():
            idle_since.append(time.perf_counter())
        else:
            self._thread.submit(watch)
        yield
        if idle_since:
            self.waited += time.perf_counter() - idle_since[0]

    def progress(self, step: int, loss: float, **more) -> None:
        """Moves the progress on to `step`; called where the device has finished it."""
        now = time.perf_counter()
        if step > self._tick_step and now > self._tick:
            self.rate = (step - self._tick_step) * self.batch_size / (now - self._tick)
            more = {"waiting": f"{min(1.0, self.waited / (now - self._tick)):.0%}", **more}
        self._tick, self._tick_step, self.waited = now, step, 0.0
        shown = {
            "loss": f"{loss:.4f}",
            "images/s": f"{self.rate:.0f}" if self.rate else "?",
            **more,
        }
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(step - self.step)
        self.step = step
        if self.main and self.bar.disable:
            left = (self.steps - step) * self.batch_size / self.rate if self.rate else None
            eta = "?" if left is None else tqdm.format_interval(left)
            print(
                f"{self.name} {step}/{self.steps}  "
                + "  ".join(f"{k} {v}" for k, v in shown.items())
                + f"  ETA {eta}",
                file=sys.stderr,
                flush=True,
            )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Records the values that are finite: JSON and TensorBoard know no NaN."""
        values = {name: value for name, value in values.items() if np.isfinite(value)}
        if self.main:
            with self.records.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer:
            self.writer.write_scalars(step, {f"{self.name}/{k}": v for k, v in values.items()})

    def add_time(self, seconds: float) -> None:
        """Adds a finished stretch to time.jsonl, whose last line has the sum of all."""
        path = self.records.with_name("time.jsonl")
        if self.main:
            lines = path.read_text().splitlines() if path.exists() else []
            before = json.loads(lines[-1])["seconds"] if lines else 0.0
            with path.open("a") as file:
                file.write(json.dumps({"step": self.step, "seconds": before + seconds}) + "\n")

    def pictures(self, step: int, grids: dict[str, np.ndarray]) -> None:
        """grids: name -> uint8 [H, W, 1 or 3]; as PNGs in pictures/, and for TensorBoard."""
        if self.main:
            (self.folder / "pictures").mkdir(exist_ok=True)
            for name, grid in grids.items():
                picture = Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid)
                picture.save(self.folder / "pictures" / f"{step:09d}_{name}.png")
        if self.writer:
            self.writer.write_images(step, {f"{self.name}/{k}": v[None] for k, v in grids.items()})
            self.writer.flush()

    def broken_pictures(self, broken: dict[str, str]) -> None:
        """Names the broken pictures that were not named yet, a few of many: each process its own."""
        new = [path for path in broken if path not in self._named]
        self._named |= set(new)
        list_of_all = self.folder / (
            "broken.txt" if self.main else f"broken-{processes.index()}.txt"
        )
        lines = [f"broken picture skipped: {path} ({broken[path]})" for path in new[:NAMED_AT_ONCE]]
        if len(new) > NAMED_AT_ONCE:
            lines.append(f"and {len(new) - NAMED_AT_ONCE} more; all are in {list_of_all}")
        for line in lines:
            tqdm.write(line, file=sys.stderr)
        if new:
            with list_of_all.open("a") as file:
                file.writelines(f"{path}\t{broken[path]}\n" for path in new)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.main:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        self._thread.shutdown()
        if self.writer:
            self.writer.flush()


def _tensorboard(folder: Path):
    try:
        from clu.metric_writers import SummaryWriter

        return SummaryWriter(str(folder))
    except ImportError as error:
        tqdm.write(
            f"no TensorBoard file ({error}; pip install 'pdae_jax[tensorboard]' brings "
            f"it): scalars go to metrics.jsonl alone",
            file=sys.stderr,
        )
        return None
