"""The benchmarks run, end to end, at a tiny size. None of their numbers is judged."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, run_program

from benchmarks import solvers, tf32, weighting
from benchmarks.speed import summarise
from benchmarks.worker import Worker

TINY = ["--rounds", "2", "--seconds", "0.01"]


def run(name: str, *args) -> str:
    environment = os.environ | {"PDAE_JAX_BENCHMARK_EAGER": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.nightly
def test_side_by_side(tmp_path):
    pytest.importorskip("torch")
    out = run(
        "speed",
        "--sizes",
        16,
        "--batch",
        2,
        "--steps",
        2,
        "--json",
        tmp_path / "speed.json",
        "--precisions",
        "bfloat16",
        *TINY,
    )
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [(row["task"], row["contender"], row["precision"]) for row in rows] == [
        (task, *who)
        for task in ("train", "decode")
        for who in (("jax", "bfloat16"), ("torch", "bfloat16"))
    ]
    for row in rows:
        assert len(row["images_per_second"]) == 2 and min(row["images_per_second"]) > 0
        assert row["peak_bytes"] > 0 and row["utilisation"] > 0 and row["ratio"] > 0
        assert row["versions"].startswith(row["contender"])
    assert rows[1]["ratio"] == 1
    assert [row["settings"] for row in rows] == [
        "jax.jit",
        "eager",
        "jax.jit",
        "channels_last, eager",
    ]
    assert "| train | 16 | 2 | pdae_jax bfloat16 (jax.jit) |" in out and "decode, 2 steps" in out


def test_ratios_are_of_rounds_and_utilisation_of_the_peak():
    def row(contender, precision, *rates):
        return {
            "contender": contender,
            "precision": precision,
            "images_per_second": list(rates),
            "peak_flops": 80.0,
        }

    jax, strong, plain = rows = [
        row("jax", "float32", 4, 6, 9),
        row("torch", "float32", 2, 2, 2),
        row("torch", "plain", 1, 6, 3),
    ]
    summarise(rows, flop=10.0)
    assert (jax["median"], jax["ratio"], jax["to_plain"], jax["utilisation"]) == (6, 3, 3, 0.75)
    assert (strong["ratio"], strong["to_plain"]) == (1, 2 / 3) and plain["to_plain"] == 1
    alone = [row("jax", "bfloat16", 5)]
    summarise(alone, flop=10.0)
    assert not alone[0]["ratio"] and not alone[0]["to_plain"]


@pytest.mark.nightly
def test_growth(tmp_path):
    run(
        "growth",
        "--out",
        tmp_path,
        "--size",
        16,
        "--batches",
        1,
        "--sizes",
        16,
        "--steps",
        2,
        *TINY,
    )
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["batch"].keys() == {"train", "encode", "decode"}
    # The same work is measured once.
    assert numbers["size"]["decode"][0][1] == numbers["steps"]["decode"][0][1] > 0
    assert "Over DDIM steps" in (tmp_path / "index.html").read_text()


def test_the_loader_alone(tmp_path):
    out = run(
        "input",
        "--pictures",
        12,
        "--stored",
        24,
        "--sizes",
        8,
        "--batch",
        4,
        "--json",
        tmp_path / "input.json",
        *TINY,
    )
    rows = json.loads((tmp_path / "input.json").read_text())
    assert [row["data"] for row in rows] == ["folder", "lmdb", "tfds"] and "| tfds | 8 px |" in out
    assert all(rate > 0 for row in rows for rate in row["rates"])


def test_what_computes_is_enough():
    assert run_program("benchmark_alone", JAX_PLATFORMS="cpu").stdout.strip() == "True"


def test_a_contender_that_dies_is_one_line():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.speed",
            "--sizes",
            "16",
            "--batch",
            "-1",
            "--contenders",
            "jax",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("benchmarks: jax ended")
    with pytest.raises(ValueError, match="jax ended .exit code 1. at"):
        Worker(
            "jax",
            task="nothing",
            arch={"image_shape": (8, 8, 1)},
            batch=1,
            precision="float32",
            steps=1,
        )


@pytest.mark.nightly
def test_weightings(tmp_path):
    args = ["--workdir", tmp_path, "--steps", 2, "--dpm_steps", 2, "--batch", 8, "--n", 4]
    args += ["--ddim_steps", 2, "--repeats", 1, "--weightings", "constant", "--seeds", 0]
    out = run("weighting", *args)
    (row,) = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert (row["name"], row["seed"], len(row["losses"])) == ("constant", 0, 10)
    assert all(row[key] > 0 for key in ("drawn", "zero", "inferred", "ap", "loss"))
    assert "| constant | 0.1 | 0.1 |" in out and "| without z |" in out
    assert "The weight of the loss over t" in (tmp_path / "index.html").read_text()
    # Nothing is measured twice, and results of other settings are not mixed.
    assert "constant, seed 0" not in run("weighting", *args)
    with pytest.raises(ValueError, match="results of other settings: n = 3 .there 4."):
        weighting.main([str(arg) for arg in [*args, "--n", 3]])


@pytest.mark.nightly
def test_solvers(workdir, tmp_path, capsys, monkeypatch):
    """Both protocols, an inversion, temperatures, thresholds and a linear x_T, as Markdown."""
    monkeypatch.setattr(solvers, "ALONE", (("dpm++2m", "log-snr", 2),))
    monkeypatch.setattr(solvers, "TEMPERATURES", (0.0, 1.0))
    line = f"--workdir {workdir} --n 4 --train 8 --rounds 1 --inversions bdia --steps 2"
    solvers.main([*line.split(), "--out", str(tmp_path)])
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    evaluations = {row[0]: row[1] for row in rows}
    assert (evaluations["| fast"], evaluations["| paper"]) == ("40", "1099")
    assert evaluations["| bdia: 2 + 2 steps"] == "3"
    (exact,) = [row for row in rows if row[0] == "| bdia: 2 + 2 steps"]
    assert float(exact[2]) < 1e-9
    assert {"| 0", "| 1", "| dpm++2m, log-snr, 2", "| inferred"} <= evaluations.keys()
    assert "Error" not in out
    assert "evaluations of the noise" in (tmp_path / "index.html").read_text()


def test_products_are_rounded_as_in_tf32():
    """To 10 bits of mantissa, also where a program was compiled before; and only within."""
    x = np.full((1, 4, 4, 1), 1 + 2.0**-11 + 2.0**-12, np.float32)  # rounds up, to 1 + 2^-10
    kernel = np.ones((1, 1, 1, 1), np.float32)

    @jax.jit
    def products(x, kernel):
        conv = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return conv[0, 0, 0, 0], jnp.einsum("bhwc,hwcd->bd", x[:, :1, :1], kernel)[0, 0]

    with jax.default_matmul_precision("default"):  # and not as in other tests
        for _ in range(2):
            assert products(x, kernel) == (x[0, 0, 0, 0],) * 2
            with tf32.tf32():
                assert products(x, kernel) == (1 + 2.0**-10,) * 2
    with tf32.tf32():  # asked for in full no tensor core takes them
        assert products(x, kernel) == (x[0, 0, 0, 0],) * 2
