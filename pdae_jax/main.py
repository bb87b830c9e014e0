"""The command: python -m pdae_jax.main --config=configs/bedroom128.py --workdir=DIR

Does what the config's stages say, each from where it stopped; a stage that is done is not done
again. A variant after the config's colon picks what is trained (configs/bedroom128.py:dpm), and
any field can be set: --config.pdae.batch_size=64 --config.model.base=64
"""

import os
import shlex
import sys
from pathlib import Path

from absl import flags, logging

from pdae_jax.config import load_config, load_module
from pdae_jax.runtime import cpu
from pdae_jax.runtime.choices import nearest

FLAGS = flags.FLAGS
MODES = {
    "train": "do the config's stages",
    "compile": "what a step would cost on --topology, without running it",
    "verify": "compare a converted workdir with its PyTorch files",
    "encode": "a table of z of all pictures",
    "reconstruct": "Figures 5 to 7",
    "interpolate": "Figures 8 to 10",
    "manipulate": "attributes, Figure 11",
    "generate": "from the latent model",
    "fewshot": "a class from few labels, Figure 12",
    "gap": "Figure 4",
    "denoise": "Figures 1 to 3",
    "shift": "Figure 13",
    "probe": "attributes from z",
    "evaluate": "SSIM, LPIPS, MSE, FID: Tables 3 and 4",
    "report": "all that the model's state allows, in one page",
}


def cli() -> None:
    """Runs `main`; what a person can mend is one line on stderr and exit status 2."""
    # TensorBoard's writer brings TensorFlow, which would speak of itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    logging.use_absl_handler()
    logging.set_verbosity(logging.ERROR)  # what a person must know is said without absl
    try:
        main(sys.argv)
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("PDAE_JAX_TRACEBACK"):
            raise
        print(f"pdae_jax: {error}", file=sys.stderr)
        sys.exit(2)


def main(argv: list[str]) -> None:
    parsed = parse(argv)
    if parsed is None:
        return
    config, workdir, cache = parsed
    from pdae_jax.runtime import processes

    processes.start(
        FLAGS.coordinator, FLAGS.processes, FLAGS.process, stoppable=FLAGS.mode == "train"
    )
    if cache and FLAGS.mode != "compile":  # which tells how long compiling takes
        use_compilation_cache(cache)
    if FLAGS.mode == "verify":
        from pdae_jax.convert.verification import verify

        if not verify(workdir, FLAGS.source):
            sys.exit(1)
        return
    command = "python -m pdae_jax.main " + shlex.join(argv[1:])
    if FLAGS.mode == "train":
        run(config, workdir, command)
        return
    if FLAGS.mode == "compile":
        forecast(config, FLAGS.topology)
        return
    from pdae_jax import commands as modes

    given = {name: FLAGS[name].value for name in OPTIONS if FLAGS[name].present}
    for name, kind in (("keep", str), ("strengths", float), ("times", int)):
        if name in given:
            given[name] = tuple(map(kind, given[name]))
    modes.run(FLAGS.mode, workdir, modes.Options(**given), out=FLAGS.out, command=command)


def run(config, workdir: str | os.PathLike, command: str) -> bool:
    """Does a config's stages in workdir; False where a signal stopped it, with all done so far kept."""
    # What is heavy is imported once the command line is known to be right.
    from pdae_jax.commands import Options, fit_few_shot
    from pdae_jax.commands import run as run_mode
    from pdae_jax.networks.architecture import Architecture
    from pdae_jax.runtime import processes
    from pdae_jax.training.objectives import OBJECTIVES
    from pdae_jax.training.state import Settings
    from pdae_jax.training.trainer import Data, make_workdir, train

    for stage in config.stages:
        nearest(stage, [*OBJECTIVES, "fewshot", "report"], "stage")
    if config.pretrained and "dpm" in config.stages:
        raise ValueError(
            f"--config.pretrained={config.pretrained} would be unused: the stages "
            f"{', '.join(config.stages)} train a dpm of their own; add :pdae to the "
            f"config's name"
        )
    arch, data = Architecture(**config.model), Data(**config.data)
    report = Options(**config.report)
    settings = {stage: Settings(**config[stage]) for stage in config.stages if stage in OBJECTIVES}
    with processes.fail_together():
        if "report" in config.stages:  # before hours of training, not after
            report.check(arch)
            data.open("test")  # raises where nothing is held out
        workdir = make_workdir(workdir)
        if processes.writes():
            (workdir / "config.json").write_text(config.to_json_best_effort(indent=1) + "\n")
    try:
        for stage in config.stages:
            processes.raise_if_stopped()
            if stage == "report":
                run_mode("report", workdir, report, command=command, data=data, again=False)
            elif stage == "fewshot":
                fit_few_shot(workdir, Options(**config.fewshot))
            elif not train(
                workdir,
                stage,
                arch=arch,
                data=data,
                settings=settings[stage],
                pretrained=config.pretrained or None,
                precision=config.precision,
                fsdp=config.mesh.fsdp,
                seed=config.seed,
            ):
                return False
    except processes.Stopped:
        if processes.writes():
            print(f"stopped at {stage}; the same command goes on from here", file=sys.stderr)
        return False
    return True


def forecast(config, topology: str) -> None:
    """Says what the config's last stage on pictures would cost on a topology."""
    from pdae_jax.cost import forecast as forecast_lib
    from pdae_jax.networks.architecture import Architecture
    from pdae_jax.training.state import Settings

    stage = [stage for stage in config.stages if stage in ("dpm", "pdae")][-1:]
    if not stage:
        raise ValueError(
            f"the stages {', '.join(config.stages)} train on no pictures; forecast a "
            f"config of dpm or pdae"
        )
    forecast_lib.forecast(
        stage[0],
        Architecture(**config.model),
        Settings(**config[stage[0]]),
        topology,
        precision=config.precision,
        fsdp=config.mesh.fsdp,
    )


def parse(argv: list[str]):
    """argv -> (config, workdir, compilation cache); None where only help was asked for."""
    if any(arg.lstrip("-") in ("help", "helpfull", "h") for arg in argv[1:]):
        print(usage(argv))
        return None
    config = None
    if needs_config(argv):
        config = load_config(config_path(argv))
    check_names(argv, config)
    define_flags()
    try:
        rest = FLAGS(argv)[1:]
    except flags.Error as error:
        raise ValueError(str(error).splitlines()[0]) from error
    if rest:
        raise ValueError(f"{rest[0]!r} is not a flag; flags are written --name=value")
    if config is None:
        if not FLAGS.workdir:
            raise ValueError(f"--mode={FLAGS.mode} needs --workdir=DIR, the model's directory")
        return None, FLAGS.workdir, FLAGS.compilation_cache
    config = FLAGS.config
    return config, FLAGS.workdir or os.path.join("runs", config.name), FLAGS.compilation_cache


OWN_FLAGS = {
    "config": "a file of configs/, and after a colon the variant",
    "workdir": "where the run lives; default runs/NAME",
    "mode": "what to do, train or one of those below",
    "source": "verify: the PyTorch files, if not where they were; several with commas between",
    "out": "where a mode other than train writes; default WORKDIR/MODE",
    "topology": "compile: for what, as v5e:4x8 or cpu",
    "coordinator": "several processes: HOST:PORT of the first; known on Cloud TPU, SLURM, Open MPI 4",
    "processes": "several processes: how many",
    "process": "several processes: which one this is, from 0",
    "compilation_cache": "where compiled programs are kept between starts; empty: nowhere",
}

# How the modes other than train work: flag -> (how absl reads it, what it is).
OPTIONS = {
    "precision": ("string", "of the networks, float32 or bfloat16 (float32)"),
    "images": ("string", "a picture, a folder or a glob; else the run's own held-out pictures"),
    "labels": ("string", "a CSV of attributes of those images"),
    "n": ("integer", "how many pictures; 0: as many as suit the mode"),
    "steps": ("integer", "of DDIM decoding (100)"),
    "invert_steps": ("integer", "of inferring x_T (100; the paper's protocol: 1000)"),
    "latent_steps": ("integer", "of the latent model's DDIM (100)"),
    "seed": ("integer", "of all that is drawn (0)"),
    "ddpm": ("boolean", "reconstruct: by DDPM too, in all T steps (true)"),
    "times": ("list", "denoise, shift: which t, from 0 to T - 1"),
    "frames": ("integer", "interpolate: of the animation (16)"),
    "attribute": ("string", "manipulate, fewshot: which"),
    "keep": ("list", "manipulate: attributes to hold still"),
    "direction": (
        "string",
        "manipulate: a .npy of numbers to move z along, instead of an attribute",
    ),
    "strengths": ("list", "manipulate: how far, about -0.5 to 0.5"),
    "positives": ("integer", "fewshot: labelled positives (50)"),
    "negatives": ("integer", "fewshot: labelled negatives (50)"),
    "unlabelled": ("integer", "fewshot: unlabelled pictures instead of negatives (0)"),
    "stop": ("float", "generate, fewshot: share of the last steps that go without z (0.3)"),
    "clamp": ("boolean", "generate, fewshot: cut the latent model's first noise to [-1, 1] (true)"),
    "clip": (
        "boolean",
        "generate, fewshot: cut normalised z at every step, as the original (false)",
    ),
    "uniform": ("boolean", "gap: noise from [0, 1) instead of Gaussian, as the original (false)"),
    "save": ("string", "generate: pictures as npz, or as a folder of PNGs (npz)"),
    "metrics": ("string", "evaluate: directory of the converted weights of LPIPS and FID"),
    "reference": ("string", "evaluate: FID against this .npz of ADM, not the training pictures"),
    "scored": ("integer", "report: held-out pictures that the scores are means over (180)"),
}


def define_flags() -> None:
    from ml_collections import config_flags

    if "config" not in FLAGS:
        config_flags.DEFINE_config_file("config", None, OWN_FLAGS["config"])
        flags.DEFINE_string("workdir", None, OWN_FLAGS["workdir"])
        flags.DEFINE_string("mode", "train", OWN_FLAGS["mode"])
        flags.DEFINE_list("source", [], OWN_FLAGS["source"])
        flags.DEFINE_string("out", None, OWN_FLAGS["out"])
        flags.DEFINE_string("topology", "cpu", OWN_FLAGS["topology"])
        flags.DEFINE_string("coordinator", None, OWN_FLAGS["coordinator"])
        flags.DEFINE_integer("processes", None, OWN_FLAGS["processes"])
        flags.DEFINE_integer("process", None, OWN_FLAGS["process"])
        for name, (kind, text) in OPTIONS.items():
            getattr(flags, f"DEFINE_{kind}")(name, None, text)
        flags.DEFINE_string(
            "compilation_cache",
            os.path.expanduser("~/.cache/pdae_jax/xla"),
            OWN_FLAGS["compilation_cache"],
        )


def flag_value(argv: list[str], flag: str) -> str | None:
    """The value of a flag before absl has read any; None where it is not given."""
    for i, arg in enumerate(argv):
        name, equals, value = arg.lstrip("-").partition("=")
        if arg.startswith("-") and name == flag:
            return value if equals else (argv[i + 1] if i + 1 < len(argv) else "")
    return None


def needs_config(argv: list[str]) -> bool:
    """Whether the mode asked for works by a config."""
    return nearest(flag_value(argv, "mode") or "train", MODES, "mode") in ("train", "compile")


def config_path(argv: list[str]) -> str:
    """The value of --config; ValueError where there is none."""
    path = flag_value(argv, "config")
    if path is None:
        raise ValueError("no --config given; for a first run: --config=configs/digits.py")
    return path


def check_names(argv: list[str], config) -> None:
    """Refuses an unknown flag or config field, with the nearest valid name."""
    fields = field_names(config) if config else []
    valid = [
        *OWN_FLAGS,
        *(OPTIONS if config is None else ()),
        *(f"config.{name}" for name in fields),
    ]
    for arg in argv[1:]:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-"):
            nearest(name, valid, "flag")


def field_names(config, prefix: str = "") -> list[str]:
    """Dotted names of every field of a ConfigDict."""
    names = []
    for key, value in config.items():
        if hasattr(value, "items"):
            names += field_names(value, f"{prefix}{key}.")
        else:
            names.append(prefix + key)
    return names


def usage(argv: list[str]) -> str:
    """The help: this file's docstring and flags and, of a config given, its own and its fields."""
    lines = [__doc__.strip(), "", "flags:"]
    lines += [f"  --{name:<18} {text}" for name, text in OWN_FLAGS.items()]
    lines += [
        "",
        "modes:",
        *(f"  {name:<20} {text}" for name, text in MODES.items()),
        "",
        "flags of the modes that work on a model, which need no config:",
    ]
    lines += [f"  --{name:<18} {text}" for name, (_, text) in OPTIONS.items()]
    try:
        path = config_path(argv)
    except ValueError:
        files = sorted(str(p) for p in Path("configs").glob("*.py"))
        lines += [
            "",
            "configs: " + (", ".join(files) or "none in this folder"),
            "with --config=FILE, --help tells of that config and lists its fields",
        ]
        return "\n".join(lines)
    config = load_config(path)
    lines += [
        "",
        f"{path}:",
        *(load_module(path.partition(":")[0]).__doc__ or "").splitlines(),
        "",
        "fields and their values:",
    ]
    for name in field_names(config):
        value = config
        for key in name.split("."):
            value = value[key]
        lines.append(f"  --config.{name}={value}")
    return "\n".join(lines)


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`, so that a second start does not compile again."""
    import jax

    jax.config.update(
        "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", folder)
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


if __name__ == "__main__":
    cpu.restart_tuned()
    cli()
