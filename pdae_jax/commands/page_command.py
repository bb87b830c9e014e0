"""Running a command that writes a page: its folder, its cache key, its files."""

import dataclasses
import json
import os
from typing import Any

from etils import epy

from pdae_jax.commands import PAGES, module_of
from pdae_jax.commands.context import Context, write_files
from pdae_jax.commands.options import Options
from pdae_jax.data.dataset import Data
from pdae_jax.pages import page
from pdae_jax.runtime.choices import nearest

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.runtime import processes
    from pdae_jax.workdir import output as output_lib
    from pdae_jax.workdir import shipped
    from pdae_jax.workdir import workdir as workdir_lib


def run_page(
    name: str,
    workdir: "workdir_lib.Workdir | str | os.PathLike[str]",
    options: Options | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    line: str = "",
    data: Data | None = None,
    skip_current: bool = False,
) -> "output_lib.Output":
    """Runs one command and writes its folder, `out` or else WORKDIR/NAME.

    options: the command's `Options`; None for the defaults. line: the command line, for the page.
    data: the run's pictures, where not those that it was trained on. skip_current: leave a page
    that is up to date. Raises ValueError where the folder holds what this command did not write.
    """
    command: Any = module_of(nearest(name, PAGES, "mode"))
    given: Options = command.Options() if options is None else options
    if not isinstance(workdir, workdir_lib.Workdir):
        workdir = workdir_lib.Workdir(shipped.located(workdir))
    workdir.architecture  # noqa: B018 - no folder is made where there is no model
    output = workdir.output(name, out)
    contents = {name: of for name, of in workdir.contents.items() if name != "statistics"}
    key = {
        "options": dataclasses.asdict(given),
        "data": dataclasses.asdict(data) if data else None,
        "files": data.fingerprint() if data else "",
        "checkpoints": contents,  # statistics are computed on the way, where they are missing
    }
    key = json.loads(json.dumps(key))
    if skip_current and output.is_current(key):
        say(f"{name}: {output.page} is up to date")
        return output
    context = Context(workdir, given, output, data, line=line)
    with output.claimed():
        result = command.run(context)
        if processes.writes():
            title = result.title or f"{name}: {workdir.name}"
            cards = result.headline or plain_numbers(result.numbers)
            page.write(
                output.page,
                title,
                cards,
                result.sections,
                lead=result.lead or line,
                verdict=result.verdict,
            )
        write_files(output, result, command=line, cache_key=key)  # after the page it calls current
        processes.wait(f"{name} done")
    words = "".join(f"  {title} {value:.4g}" for title, value in result.headline.items())
    say(f"{name}: {output.page}{words}" + (f"\n{v.sentence}" if (v := result.verdict) else ""))
    return output


def plain_numbers(numbers: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if isinstance(value, int | float)}


def say(line: str) -> None:
    if processes.writes():
        print(line)
