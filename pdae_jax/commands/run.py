"""The modes by name, and a folder for what one of them makes."""

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from pdae_jax.commands.codes import encode, manipulate, probe
from pdae_jax.commands.context import Context, Options, Result, save_grid
from pdae_jax.commands.evaluate import evaluate
from pdae_jax.commands.generation import fewshot, generate
from pdae_jax.commands.pictures import denoise, gap, interpolate, reconstruct, shift
from pdae_jax.commands.report import compose, lead
from pdae_jax.pages import page as report
from pdae_jax.runtime import processes
from pdae_jax.runtime.choices import nearest
from pdae_jax.workdir import checkpoints as checkpoint

# In the order of the report.
WORK: dict[str, Callable[[Context], Result]] = {
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "evaluate": evaluate,
    "manipulate": manipulate,
    "generate": generate,
    "fewshot": fewshot,
    "probe": probe,
    "gap": gap,
    "denoise": denoise,
    "shift": shift,
    "encode": encode,
}
MODES = (*WORK, "report")
PAGE = "index.html"
MARK = "numbers.json"  # says that a folder is ours, and which mode's


def run(
    mode: str,
    workdir: str | Path,
    options: Options,
    *,
    out: str | Path | None = None,
    command: str = "",
    data=None,
    again: bool = True,
) -> Path:
    """Does one mode and writes its folder (default workdir/MODE); returns the page's path.

    data: a `Data`, where not the run's own. again: False leaves a page that is up to date. Raises
    ValueError where the folder holds something that this mode did not write.
    """
    nearest(mode, MODES, "mode")
    workdir = Path(workdir).expanduser()
    out = Path(out).expanduser() if out else workdir / mode
    made_from = {
        "options": dataclasses.asdict(options),
        "data": dataclasses.asdict(data) if data else None,
        "checkpoints": checkpoint.latest_steps(workdir),
    }
    made_from = json.loads(json.dumps(made_from))
    page = out / PAGE
    if not again and processes.ask_first(
        lambda: page.exists() and _mark(out).get("made_from") == made_from
    ):
        if processes.writes():
            print(f"{mode}: {page} is up to date")
        return page
    with contextlib.ExitStack() as stack:
        shared = out
        if not processes.writes():  # the first process writes; the others help with what is long
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with processes.fail_together():
            claim(out, mode)
        context = Context(workdir, options, out, data, shared=shared)
        result = _work(context, mode, made_from, command)
        processes.wait(f"{mode} done")
    if processes.writes():
        print(f"{mode}: {page}" + "".join(f"  {k} {v:.4g}" for k, v in result.headline.items()))
    return page


def _work(context: Context, mode: str, made_from: dict, command: str) -> Result:
    """Does a mode in its folder, and writes the folder's files."""
    if mode == "report":
        result = compose(
            context,
            {name: work for name, work in WORK.items() if name != "encode"},
            begin=claim,
            end=write_files,
            command=command,
        )
    else:
        result = WORK[mode](context)
    write_files(context.out, mode, result, {"command": command, "made_from": made_from})
    report.write(
        context.out / PAGE,
        *head(context, mode, result),
        result.sections,
        lead=lead(context) if mode == "report" else command,
    )
    return result


def head(context: Context, mode: str, result: Result) -> tuple[str, dict]:
    """The page's title, and the numbers on its cards."""
    name = context.workdir.name
    if mode == "report":
        return f"PDAE on {name}", result.headline | {"numbers in z": context.model.arch.z_size}
    return f"{mode}: {name}", result.headline or {
        key: value for key, value in result.numbers.items() if isinstance(value, (int, float))
    }


def write_files(out: Path, mode: str, result: Result, record: dict) -> None:
    """Writes a mode's pictures and numbers to its folder."""
    for name, rows in result.grids.items():
        save_grid(out / f"{name}.png", rows)
    (out / MARK).write_text(
        json.dumps({"mode": mode} | record | {"numbers": result.numbers}, indent=1) + "\n"
    )


def claim(out: Path, mode: str) -> None:
    """Makes the folder `out` ours for `mode`, or raises ValueError."""
    theirs = _mark(out).get("mode")
    if theirs not in (None, mode):
        raise ValueError(f"{out} holds what --mode={theirs} wrote; choose another --out")
    if theirs is None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} holds what this command did not write; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    if theirs is None:
        (out / MARK).write_text(json.dumps({"mode": mode}) + "\n")


def _mark(out: Path) -> dict:
    """What a folder says of itself; {} where it is not ours."""
    try:
        return json.loads((out / MARK).read_text())
    except (OSError, ValueError):
        return {}
