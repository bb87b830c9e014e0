"""The command: python -m pdae_jax.main --config=configs/bedroom128.py --workdir=DIR

Runs the config's stages, each resumed where it stopped; re-running is a no-op. A variant after the
config's colon picks what is trained (configs/bedroom128.py:dpm), and any field can be set:
--config.pdae.batch_size=64 --config.model.base=64

With --mode=NAME it does one of the commands below instead; --mode=NAME --help lists its options.
`pdae_jax NAME DIR` is short for --mode=NAME --workdir=DIR, and `pdae_jax demo` shows the model that
ships. The workdir `emoji` is that model.
"""

if __name__ == "__main__":  # before imports that take their time
    from pdae_jax.runtime import interrupt

    interrupt.end_in_one_line()

import dataclasses
import errno
import itertools
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from etils import epy
from ml_collections import config_flags

from pdae_jax import commands
from pdae_jax.commands import flags as option_flags
from pdae_jax.commands.options import Options
from pdae_jax.commands.train import STAGES
from pdae_jax.config import complete, description, field_names, load_config, load_module
from pdae_jax.runtime import cpu, determinism, interrupt, one_line

with epy.lazy_imports():  # a mistyped flag and --help need no JAX
    from pdae_jax.commands import page_command
    from pdae_jax.runtime import processes, programs

HELP = ("help", "h", "helpshort", "helpfull")
COMMON = {
    "mode": "command to run, one of those below (default train)",
    "config": "file of configs/, and after a colon the variant",
    "workdir": "directory of the run or model (default of a run: runs/NAME)",
    "out": "folder that a page is written to (default WORKDIR/MODE)",
    "compilation_cache": "where compiled programs are kept between starts; empty: nowhere",
    "deterministic": "on a GPU: the same to the last bit from run to run, for some speed",
    "coordinator": "HOST:PORT of process 0 of several; known on Cloud TPU, SLURM, Open MPI 4",
    "processes": "number of processes",
    "process": "number of this process, from 0",
}


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """One command line, parsed."""

    command: str
    options: Options
    config: Any  # a ConfigDict of the commands that read one, else None
    config_path: str  # its file, and after a colon the variant
    given: Mapping[str, Any]  # the fields of the config that flags set, by their dotted names
    flags: flags.FlagValues  # those that all commands have
    line: str  # as typed

    @property
    def workdir(self) -> str:
        if self.command == "compile":
            return ""
        if self.config is not None:
            return self.flags.workdir or os.path.join("runs", self.config.name)
        if self.command in ("demo", "explore"):
            return self.flags.workdir or commands.SHIPPED
        if not self.flags.workdir:
            raise ValueError(f"--mode={self.command} needs --workdir=DIR, the model's directory")
        return self.flags.workdir


def cli() -> None:
    """The entry point `pdae_jax`, and of python -m pdae_jax and pdae_jax.main."""
    interrupt.end_in_one_line()
    sys.exit(main(sys.argv, before=cpu.restart_tuned))


def main(argv: Sequence[str], before: Callable[[], None] = lambda: None) -> int:
    """Runs one command line; the exit status. What a person can mend is one line on stderr.

    before: called between parsing and what imports JAX.
    """
    # TensorBoard's writer brings TensorFlow, which would speak of itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)  # what a person must know is said without absl
    try:
        if any(arg.lstrip("-") in HELP for arg in argv[1:] if arg.startswith("-")):
            print(usage(argv))
            return 0
        parsed = parse(argv)
        before()
        if "deterministic" in common_of(parsed.command) and parsed.flags.deterministic:
            determinism.ask()
        with one_line.one_line_each():
            return run(parsed)
    except KeyboardInterrupt:
        one_line.say("interrupted; the same command goes on from there")
        return interrupt.STATUS
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("PDAE_JAX_TRACEBACK"):
            raise
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; make room, and re-run the command to go on" if full else ""
        one_line.say(f"{error}{remedy}")
        return 2


def in_full(argv: Sequence[str]) -> list[str]:
    """A command line whose first words, NAME and DIR, are --mode=NAME and --workdir=DIR."""
    words = list(itertools.takewhile(lambda arg: not arg.startswith("-"), argv[1:3]))
    flags_of_words = [f"--{flag}={word}" for flag, word in zip(("mode", "workdir"), words)]
    return [argv[0], *flags_of_words, *argv[1 + len(words) :]]


def program_of(argv: Sequence[str]) -> list[str]:
    """The words that start this program, as they were typed."""
    name = Path(argv[0]).name
    return [name] if name == "pdae_jax" else ["python", "-m", "pdae_jax.main"]


def run(parsed: CommandLine) -> int:
    """Runs a command; 0, or 1 where what it checks does not hold."""
    command, given = commands.module_of(parsed.command), parsed.flags
    if "processes" in common_of(parsed.command):
        several = given.coordinator, given.processes, given.process
        processes.start(*several, stoppable=parsed.command == "train")
    if "compilation_cache" in common_of(parsed.command) and given.compilation_cache:
        typed = given["compilation_cache"].present
        programs.keep_on_disk(given.compilation_cache if typed else None)
    if parsed.command == "train":
        module = load_module(parsed.config_path.partition(":")[0])
        complete(module, parsed.config, parsed.given, parsed.workdir)
        check_sections(parsed.given, parsed.config.stages, None)
        command.run(parsed.config, parsed.workdir, parsed.line)
    elif parsed.command == "compile":
        command.run(parsed.config, parsed.options)
    elif parsed.command in ("verify", "explore"):
        return 0 if command.run(parsed.workdir, parsed.options) else 1
    else:
        page_command.run_page(
            parsed.command,
            parsed.workdir,
            parsed.options,
            out=given.out or (command.OUT if parsed.command == "demo" else None),
            line=parsed.line,
        )
    return 0


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads a command line; ValueError where it is wrong, with the nearest valid name."""
    line = shlex.join([*program_of(argv), *argv[1:]])
    argv = in_full(argv)
    command, config_path = what_is_asked(argv)
    module, values = commands.module_of(command), flags.FlagValues()
    define_common(command, values)
    config, given = None, {}
    if command in commands.OF_CONFIGS:
        if config_path is None:
            raise ValueError("no --config given; for a first run: --config=configs/digits.py")
        load_config(config_path)  # says what is wrong with the file or its variant
        config_flags.DEFINE_config_file(
            "config", None, COMMON["config"], flag_values=values, sys_argv=list(argv)
        )
    option_flags.define(module.Options, values)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        raise ValueError(unrecognised(error, command)) from error
    except AttributeError as error:  # ml_collections', around a KeyError that has a suggestion
        cause = error.args[0]
        words = cause.args[0] if isinstance(cause, KeyError) else cause
        raise ValueError(f"no config field {' '.join(str(words).split())}") from error
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if rest:
        raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
    if command in commands.OF_CONFIGS:
        config = values.config
        given = config_flags.get_override_values(values["config"])
        check_sections(given, config.stages, getattr(module, "SECTIONS", None))
    options = option_flags.read(module.Options, values)
    parsed = CommandLine(command, options, config, config_path or "", given, values, line)
    parsed.workdir  # noqa: B018 - raises where there is none
    return parsed


def what_is_asked(argv: Sequence[str]) -> tuple[str, str | None]:
    """The command and the config's path, which decide what other flags there are."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_string("mode", "train", COMMON["mode"], flag_values=values)
    flags.DEFINE_string("config", None, COMMON["config"], flag_values=values)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ValueError(str(error)) from error
    commands.module_of(values.mode)  # raises where there is none
    return values.mode, values.config


def common_of(command: str) -> list[str]:
    """The common flags that a command reads."""
    names = ["mode"]
    if command in commands.OF_CONFIGS:
        names.append("config")
    if command != "compile":  # which keeps nothing, and times the compiler
        names += ["workdir", "compilation_cache"]
    if command in commands.PAGES:
        names.append("out")
    if command in ("train", *commands.PAGES):
        names += ["deterministic", "coordinator", "processes", "process"]
    return names


def define_common(command: str, values: flags.FlagValues) -> None:
    """Defines the common flags that a command reads, but for --config."""
    defaults = {
        "mode": "train",
        "compilation_cache": os.path.expanduser("~/.cache/pdae_jax/xla"),
    }
    for name in common_of(command):
        if name in ("processes", "process"):
            flags.DEFINE_integer(name, None, COMMON[name], flag_values=values)
        elif name == "deterministic":
            flags.DEFINE_boolean(name, False, COMMON[name], flag_values=values)
        elif name != "config":
            flags.DEFINE_string(name, defaults.get(name), COMMON[name], flag_values=values)


def check_sections(
    fields: Iterable[str], stages: Sequence[str], read: Sequence[str] | None
) -> None:
    """Raises ValueError where a field is set that no stage reads.

    read: the sections beside the stages' own that the command reads; None for all.
    """
    for field in fields:
        section = field.partition(".")[0]
        of_a_stage = section in STAGES
        if section not in stages if of_a_stage else read is not None and section not in read:
            raise ValueError(
                f"--config.{field} would be ignored: "
                + (f"the stages are {', '.join(stages)}" if of_a_stage else "nothing reads it here")
            )


def unrecognised(error: flags.UnrecognizedFlagError, command: str) -> str:
    """An unknown flag: whose option it is, or the nearest name."""
    flag, name = error.flagname, error.flagname.removeprefix("no")
    if flag.partition(".")[0] == "config":
        return f"--mode={command} reads no config, but a model: give --workdir=DIR alone"
    whose = [
        other
        for other in commands.NAMES
        if {flag, name} & {field.name for field in dataclasses.fields(module_options(other))}
    ]
    if flag in COMMON or whose:
        words = f"; it is one of {', '.join(whose)}" if whose else ""
        return f"--{flag} is no option of --mode={command}, which would ignore it{words}"
    return " ".join(str(error).split())


def module_options(command: str) -> type[Options]:
    return commands.module_of(command).Options


def usage(argv: Sequence[str]) -> str:
    """The help: an overview, or what is asked about: a command's options, a config's fields."""
    command, path = what_is_asked(in_full(argv))
    if command != "train":
        return command_usage(command)
    if path is not None:
        return config_usage(path)
    files = ", ".join(sorted(str(file) for file in Path("configs").glob("*.py")))
    return "\n".join(
        [
            (__doc__ or "").strip(),
            "",
            "flags:",
            *columns((f"--{name}", text) for name, text in COMMON.items()),
            "",
            "commands:",
            *columns((name, document(name)[0]) for name in commands.NAMES),
            "",
            f"configs: {files or 'none in this folder'}",
            "with --config=FILE, --help describes that config and lists its fields",
        ]
    )


def command_usage(command: str) -> str:
    """The help of one command, its own options before those that it shares with others."""
    options = module_options(command)
    own = vars(options).get("__annotations__", {})
    fields = sorted(dataclasses.fields(options), key=lambda field: field.name not in own)
    texts, more = dict(COMMON), []
    if command == "demo":  # a report with other defaults
        fields, more = fields[: len(own)], ["", "and every option of pdae_jax report"]
        out = commands.module_of(command).OUT
        texts["out"] = f"folder that the page is written to (default {out})"
    if command in ("demo", "explore"):
        texts["workdir"] = f"model that is shown (default {commands.SHIPPED})"
    common = [name for name in common_of(command) if name != "mode"]
    where = "" if command in (*commands.OF_CONFIGS, "demo") else " WORKDIR"
    return "\n".join(
        [
            f"pdae_jax {command}{where} [--OPTION=VALUE ...]",
            "",
            *document(command),
            "",
            "options:",
            *columns((f"--{field.name}", option_flags.help_of(field)) for field in fields),
            *more,
            "",
            "common flags:",
            *columns((f"--{name}", texts[name]) for name in common),
        ]
    )


def config_usage(path: str) -> str:
    """The help of a config: its docstring, and its fields with their values."""
    config, module = load_config(path), load_module(path.partition(":")[0])
    lines = [f"{path}:", *(module.__doc__ or "").splitlines(), "", "fields and their values:"]
    to_choose = module.to_choose() if hasattr(module, "to_choose") else ()
    rows = []
    for name in field_names(config):
        value: Any = config
        for key in name.split("."):
            value = value[key]
        flag, text = f"--config.{name}", description(name, module)
        if name in to_choose:
            rows.append((flag, f"{text} (chosen at the start)"))
        else:
            rows.append((f"{flag}={value}", text))
    return "\n".join([*lines, *columns(rows)])


def columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Names, and descriptions in one column, as wide as the terminal."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    room = max(40, shutil.get_terminal_size(fallback=(1000, 24)).columns - width - 4)
    lines = []
    for name, text in rows:
        first, *more = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        lines += [f"  {name:<{width}}  {first}".rstrip()]
        lines += [f"  {'':<{width}}  {line}" for line in more]
    return lines


def document(command: str) -> list[str]:
    """The lines of a command's docstring."""
    return (commands.module_of(command).__doc__ or "").strip().splitlines()


if __name__ == "__main__":
    cli()
