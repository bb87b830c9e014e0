"""The command line: what it accepts, and what it answers in one line."""

import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import ROOT, run_command

from pdae_jax import commands
from pdae_jax.commands import flags as option_flags
from pdae_jax.commands.manipulate import Options as ManipulateOptions
from pdae_jax.main import parse, usage


def bad_inputs():
    digits, bedroom = "--config=configs/digits.py", "--config=configs/bedroom128.py"
    small = ["--config.model.mult=(1,)", "--config.model.attention=()"]
    return {
        "no config": ([], "no --config given"),
        "config file": (["--config=configs/digit.py"], "did you mean 'configs/digits.py'"),
        "variant": (["--config=configs/digits.py:dmp"], "did you mean 'dpm'"),
        "field": (
            [digits, "--config.dpm.stpes=3"],
            "no config field 'stpes' Did you mean \"steps\"",
        ),
        "flag": ([digits, "--workdri=x"], "Did you mean: workdir"),
        "type": ([digits, "--config.dpm.steps=many"], "invalid literal for int"),
        "mode": ([digits, "--mode=trian"], "did you mean 'train'"),
        "precision": ([digits, "--config.precision=bfloat61"], "did you mean 'bfloat16'"),
        "value": ([digits, "--config.dpm.batch_size=0"], "batch_size must be at least 1, got 0"),
        "size": ([digits, "--config.model.image_shape=(9,8,1)"], "9 is not divisible by 2"),
        "data": ([digits, "--config.data.name=digit"], "did you mean digits"),
        "no folder": ([digits, "--config.data.name=folder:no/such"], "no/such"),
        "empty folder": ([digits, "--config.data.name=folder:{empty}"], "no pictures"),
        "channels": ([digits, *small, "--config.data.name=folder:{four}"], "channels"),
        "no pre-trained model": (
            [bedroom, "--config.data.name=folder:{four}", "--config.model.image_shape=(16,16,4)"],
            "--config.pretrained",
        ),
        "pre-trained folder": (
            [
                bedroom,
                "--config.data.name=folder:{four}",
                "--config.model.image_shape=(16,16,4)",
                "--config.pretrained=no/such",
            ],
            "no/such",
        ),
        "mult": ([digits, "--config.model.mult=(1,'a')"], "mult must be numbers above 0"),
        "heads": ([digits, "--config.model.heads=5"], "64 channels do not divide into 5"),
        "encoder heads": ([digits, "--config.model.encoder_heads=5"], "encoder_heads = 5"),
        "head channels": ([digits, "--config.model.head_channels=-1"], "head_channels must be 0"),
        "head width": ([digits, "--config.model.head_channels=48"], "into heads of head_channels"),
        "base": ([digits, "--config.model.base=1"], "base must be even"),
        "one dash": (
            [digits, "-config.dpm.stpes=3"],
            "no config field 'stpes' Did you mean \"steps\"",
        ),
        "report steps": ([digits, "--config.report.steps=2000"], "more than the model's T = 1000"),
        "nothing held out": ([digits, "--config.data.test_fraction=0"], "test split"),
        "T": ([digits + ":dpm", "--config.model.T=20"], "needs T above 20, got 20"),
        "pre-trained unused": ([digits, "--config.pretrained={four}"], "would be unused"),
        "variance": ([digits, "--config.model.learned_variance=True"], "set it False"),
        "workdir": ([digits, "--workdir={file}/run"], "cannot be written"),
    }


def the_error(capsys):
    """The one line on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("pdae_jax: "), lines
    return lines[0]


@pytest.mark.parametrize("case", bad_inputs())
def test_bad_input_is_one_clear_line(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    empty, four, file = tmp_path / "empty", tmp_path / "four", tmp_path / "file"
    empty.mkdir()
    four.mkdir()
    for i in range(4):
        np.save(four / f"{i}.npy", np.zeros((16, 16, 4), np.uint8))
    file.write_text("")
    arguments, message = bad_inputs()[case]
    arguments = [a.format(empty=empty, four=four, file=file) for a in arguments]
    if not any(a.startswith("--workdir") for a in arguments):
        arguments.append(f"--workdir={tmp_path / 'run'}")
    assert run_command(*arguments) == 2
    assert message in the_error(capsys)


@pytest.mark.parametrize(
    "args, says",
    [
        (["--mode=gap"], "--mode=gap needs --workdir=DIR"),
        (["--mode=gap", "--workdir=no/such"], "no model at .*no/such"),
        (["--mode=gapp", "--workdir=x"], "did you mean 'gap'"),
        (["--mode=gap", "--workdir={run}", "--steps=5"], "--steps is no option of --mode=gap"),
        (["--mode=gap", "--workdir={run}", "--positives=7"], "it is one of fewshot, report"),
        (["--mode=gap", "--workdir={run}", "--noddpm"], "it is one of reconstruct, report"),
        (
            ["--mode=probe", "--workdir={run}", "--images=x"],
            "--images is no option of --mode=probe",
        ),
        (["--mode=encode", "--workdir={run}", "--n=3"], "--n is no option of --mode=encode"),
        (["--mode=encode", "--workdir={run}", "--attribute=3"], "one of manipulate, fewshot"),
        (["--mode=gap", "--config=configs/digits.py"], "reads no config, but a model"),
        (["--mode=reconstruct", "--workdir={run}", "--steps=0"], "steps must be at least 1, got 0"),
        (["--mode=reconstruct", "--workdir={run}", "--steps=1001"], "more than the model's T"),
        (["--mode=shift", "--workdir={run}", "--times=5,1000"], "times must be from 0 to 999"),
        (["--mode=shift", "--workdir={run}", "--times=a"], "flag --times=a: invalid literal"),
        (["--mode=generate", "--workdir={run}", "--stop=2"], "stop must be at most 1, got 2"),
        (
            ["--mode=generate", "--workdir={run}", "--samples=png"],
            "no samples 'png'; there is npz, units, folder",
        ),
        (
            ["--mode=generate", "--workdir={run}", "--save=jpg"],
            "no save 'jpg'; did you mean 'png'",
        ),
        (["--mode=gap", "--workdir={run}", "--imges=x"], "Did you mean: images"),
        (["--mode=gap", "--workdir={run}", "--images=no/such"], "no such file or folder: no/such"),
        (["--mode=gap", "--workdir={run}", "--images=no/*.png"], "no picture matches no/.*a glob"),
        (["--mode=gap", "gap", "--workdir={run}"], "'gap' is not a flag"),
        (
            ["--mode=evaluate", "--workdir={run}", "--metrics={run}", "--reference=no.npz"],
            "reference: no such file or folder: no.npz",
        ),
        (["--mode=evaluate", "--workdir={run}", "--metrics=none"], "metrics: no such file"),
        (["--mode=encode", "--workdir={run}", "--images={run}", "--labels=x"], "labels: no such f"),
        (["--config=configs/digits.py", "--config.report.metrics=none"], "metrics: no such file"),
        (
            ["--mode=compile", "--config=configs/digits.py", "--topology=gpu"],
            "no topology 'gpu': programs can be compiled for TPUs and GPUs .* v5e:4x8",
        ),
        (
            ["--mode=compile", "--config=configs/digits.py", "--workdir=x"],
            "no option of --mode=comp",
        ),
        (["--mode=verify", "--workdir={run}", "--coordinator=a:1"], "no option of --mode=verify"),
        (["--config=configs/digits.py", "--out=x"], "--out is no option of --mode=train"),
        (["--config=configs/digits.py:pdae", "--config.latent.steps=4"], "the stages are pdae"),
        (["--mode=compile", "--config=configs/digits.py", "--config.seed=4"], "nothing reads it"),
        (["--mode=fewshot", "--workdir={run}", "--positives=3"], "without --attribute=NAME"),
        (
            ["--mode=fewshot", "--workdir={run}", "--attribute=3", "--images=x"],
            "--images without --labels",
        ),
        (
            ["--mode=fewshot", "--workdir=x", "--attribute=3", "--negatives=9", "--unlabelled=5"],
            "--negatives with --unlabelled",
        ),
        (
            ["--mode=manipulate", "--workdir=x", "--direction={run}", "--attribute=b"],
            "ignored: --attr",
        ),
        (
            ["--mode=manipulate", "--workdir=x", "--attribute=b", "--by=matched", "--keep=a"],
            "ignored: --by=matched",
        ),
        (
            ["--mode=manipulate", "--workdir=x", "--attribute=b", "--noinferred"]
            + ["--invert_steps=9"],
            "ignored: --invert_steps",
        ),
        (["--mode=manipulate", "--workdir=x", "--strengths=,"], "strengths are empty"),
        (
            ["--mode=evaluate", "--workdir={run}", "--reference={run}"],
            "--reference without --metrics",
        ),
        (["--config=configs/digits.py:fewshot"], "give --config.fewshot.attribute=NAME"),
        (["gap"], "--mode=gap needs --workdir=DIR"),
        (["gapp", "x"], "no mode 'gapp'; did you mean 'gap'?"),
        (["--mode=verify", "--workdir={run}"], "it was not converted from PyTorch files"),
    ],
)
def test_bad_commands_are_one_line(workdir, tmp_path, capsys, args, says):
    args = [arg.format(run=workdir) for arg in args]
    pages = {f"--mode={name}" for name in commands.PAGES}
    out = [f"--out={tmp_path / 'o'}"] if set(args) & pages else []
    assert run_command(*args, *out) == 2
    assert re.search(says, the_error(capsys))


def test_a_mistyped_workdir_makes_no_folder(tmp_path, capsys):
    assert run_command("--mode=gap", f"--workdir={tmp_path / 'no'}") == 2
    assert "no model at" in the_error(capsys) and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "args, expected",
    [
        (["--strengths", "-0.5,0.5"], {"strengths": (-0.5, 0.5)}),
        (["--strengths=-1"], {"strengths": (-1.0,)}),
        (["--keep=5, 8", "-n", "4"], {"keep": ("5", "8"), "n": 4}),
        (["--attribute=Male"], {"attribute": "Male"}),
        ([], {}),
    ],
)
def test_lists_and_negative_numbers_are_read(args, expected):
    parsed = parse(["pdae_jax", "--mode=manipulate", "--workdir=x", *args])
    assert parsed.options == ManipulateOptions(**expected)


@pytest.mark.parametrize(
    "flag, value", [("--noddpm", False), ("--ddpm", True), ("--ddpm=0", False)]
)
def test_booleans_are_read(flag, value):
    assert parse(["pdae_jax", "--workdir=x", "--mode=reconstruct", flag]).options.ddpm is value


def test_a_configs_fields_are_set():
    config = f"--config={ROOT / 'configs' / 'digits.py'}:pdae"
    fields = ["--config.model.mult=(1,)", "--noconfig.data.flip", "--config.pdae.ema=0.5"]
    fields += ["--config.report.strengths=(-1.0, 2.0)", "--config.stages=('pdae', 'report')"]
    parsed = parse(["pdae_jax", config, *fields])
    assert parsed.config.model.mult == (1,) and parsed.config.pdae.ema == 0.5
    assert parsed.config.report.strengths == (-1.0, 2.0) and parsed.config.stages == (
        "pdae",
        "report",
    )
    assert parsed.workdir == "runs/digits" and parsed.config.data.flip is False


@pytest.mark.parametrize("command", commands.NAMES)
def test_flags_that_a_page_prints_are_read_back(command):
    """`Options.flags`, by which a report says how each part is made, is what `parse` reads."""
    options = commands.module_of(command).Options
    changed = {"n": 3, "strengths": (-1.0, 0.5), "keep": ("a b", "c"), "ddpm": False, "seed": 2}
    some = options.out_of(
        ManipulateOptions(),
        **{name: value for name, value in changed.items() if name in options.__dataclass_fields__},
    )
    line = shlex.split(some.flags())
    needed = (
        [f"--config={ROOT / 'configs' / 'digits.py'}"] if command in commands.OF_CONFIGS else []
    )
    needed += ["--workdir=x"] if command != "compile" else []
    assert parse(["x", f"--mode={command}", *needed, *line]).options == some


def test_help_is_of_what_is_asked(capsys):
    assert run_command("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in commands.NAMES) and "--workdir" in text
    assert run_command("--help", f"--config={ROOT / 'configs' / 'digits.py'}") == 0
    text = capsys.readouterr().out
    assert "Handwritten digits" in text and "--config.pdae.learning_rate=0.002" in text
    for command in commands.PAGES:
        text = " ".join(
            usage(["pdae_jax", f"--mode={command}", "--help"]).split()
        )  # not as wrapped
        options = commands.module_of(command).Options
        shown = options.__annotations__ if command == "demo" else options.__dataclass_fields__
        for field in map(options.__dataclass_fields__.get, shown):
            assert option_flags.help_of(field) in text


@pytest.mark.parametrize("start", [["-m", "pdae_jax"], ["-m", "pdae_jax.main"], []])
def test_the_entry_points_are_one_and_answer_at_once(start):
    """python -m pdae_jax, python -m pdae_jax.main and the installed command, from outside."""
    executable = [sys.executable, *start] if start else [f"{sys.prefix}/bin/pdae_jax"]
    libraries = "absl.flags, etils.epy, ml_collections.config_flags, numpy, PIL.Image, jaxtyping"

    def run(*line, **environment):
        """What it said, and the processor's time that it took: others may work on these cores."""
        before = os.times()
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
        )
        after = os.times()
        return done, sum(after[2:4]) - sum(before[2:4])  # of children

    mistyped = (*executable, "--config=configs/digits.py", "--workdri=x")
    done, _ = run(*mistyped)
    assert done.returncode == 2 and "Did you mean: workdir" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    imports, _ = run(*mistyped, PYTHONPROFILEIMPORTTIME="1")
    loaded = {line.split("|")[-1].strip() for line in imports.stderr.splitlines() if "|" in line}
    assert "numpy" in loaded and not loaded & {"jax", "flax", "optax", "orbax", "scipy", "clu"}
    ours, theirs = (
        min(run(*line)[1] for _ in range(3))
        for line in (mistyped, (sys.executable, "-c", f"import {libraries}"))
    )
    assert ours < 3 * theirs


@pytest.mark.parametrize(
    "flags, added",
    [("", True), ("--xla_dump_to=x", True), ("--xla_gpu_deterministic_ops=true", False)],
)
def test_deterministic_asks_xla(flags, added, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    run_command("encode", tmp_path / "nothing", "--deterministic")
    asked = "--xla_gpu_deterministic_ops=true"
    assert os.environ["XLA_FLAGS"] == (f"{flags} {asked}".strip() if added else flags)
    option, value = asked.removeprefix("--").split("=")
    identity = jax.jit(lambda x: x).lower(np.ones(2))  # refused where jaxlib knows it no more
    assert identity.compile(compiler_options={option: value == "true"})
    with pytest.raises(jax.errors.JaxRuntimeError):
        identity.compile(compiler_options={f"{option}_": True})


def test_deterministic_is_not_both(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    assert run_command("encode", tmp_path / "nothing", "--deterministic") == 2
    assert "and XLA_FLAGS for --xla_gpu_deterministic_ops=false" in capsys.readouterr().err
