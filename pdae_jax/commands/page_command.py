"""Running a command that writes a page: its folder, its cache key, its files."""

import os
from typing import Any

from etils import epy

from pdae_jax.commands import PAGES, module_of
from pdae_jax.commands.context import Context, page_key, save_figures, write_files
from pdae_jax.commands.options import Options
from pdae_jax.data.dataset import Data
from pdae_jax.formats.errors import require
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
    """Runs one command and writes its folder: `out`, else WORKDIR/NAME, and of a model that ships
    MODEL_NAME here.

    options: the command's `Options`; None for the defaults. line: the command line, for the page.
    data: the run's pictures, where not those that it was trained on. skip_current: leave a page
    that is up to date. Raises ValueError where the folder holds what this command did not write.
    """
    command: Any = module_of(nearest(name, PAGES, "mode"))
    given: Options = command.Options() if options is None else options
    if not isinstance(workdir, workdir_lib.Workdir):
        located = shipped.located(workdir)
        if out is None and located != workdir:  # its own directory is a cache
            out = f"{shipped.name_of(located)}_{name}"
        workdir = workdir_lib.Workdir(located)
    workdir.architecture  # noqa: B018 - no folder is made where there is no model
    output = workdir.output(name, out)
    kinds = getattr(given, "save", ())
    if kinds:
        require("matplotlib", "figures")  # before hours of work, not after
    key = page_key(workdir, given, data)
    if skip_current and output.is_current(key):
        say(f"{name}: {output.page} is up to date")
        return output
    context = Context(workdir, given, output, data, line=line)
    with output.claimed():
        result = command.run(context)
        if result.warning is None:
            result.warning = context.unlike_the_training()
        if processes.writes():
            title = result.title or f"{name}: {workdir.name}"
            cards = result.headline or plain_numbers(result.numbers)
            page.write(
                output.page,
                title,
                cards,
                result.sections,
                lead=result.lead or (f"`{line}`" if line else ""),
                verdict=result.verdict or ((False, result.warning) if result.warning else None),
            )
        files = [*result.files, *save_figures(output, result.sections, kinds)]
        if kinds:
            output.keep_figures(files)
        write_files(output, result, command=line, cache_key=key)  # after the page it calls current
        processes.wait(f"{name} done")
    words = "".join(f"  {title} {value:.4g}" for title, value in result.headline.items())
    say(f"{name}: {output.page}{words}")
    for sentence in (result.verdict.sentence if result.verdict else "", result.warning):
        if sentence:
            say(sentence)
    return output


def plain_numbers(numbers: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if isinstance(value, int | float)}


def say(line: str) -> None:
    if processes.writes():
        print(line)
