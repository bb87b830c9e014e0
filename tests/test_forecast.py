"""What a step would cost on devices that are not here."""

import dataclasses
import importlib.util
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from helpers import DIGITS_ARCH as ARCH
from helpers import ROOT, run_command
from jax.experimental import topologies

from pdae_jax.cost import chips, forecast
from pdae_jax.networks import flash_attention
from pdae_jax.networks.groups import Networks
from pdae_jax.runtime import programs, sharding
from pdae_jax.training.settings import Settings

SMALL = Settings(batch_size=16)
needs_the_plugin_for_cuda = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="JAX's plugin for CUDA is not installed (pip install 'pdae_jax[gpu-forecast]')",
)


def test_on_this_machine():
    train = forecast.train_step("pdae", ARCH, SMALL, jax.devices())
    twice = forecast.train_step(
        "pdae", ARCH, dataclasses.replace(SMALL, batch_size=32), jax.devices()
    )
    assert 1.8 < twice.flops / train.flops < 2.1 and train.moved > 0
    parts = forecast.train_step(
        "pdae", ARCH, dataclasses.replace(SMALL, batch_size=32, accumulate=2), jax.devices()
    )  # a loop's body counts once
    assert 0.9 < parts.flops / train.flops < 1.2 and parts.arguments > train.arguments
    # The new state lies where the old one lay.
    assert train.outputs < 0.01 * train.arguments
    # Arguments: parameters with average and two moments, frozen ones, and the pictures.
    params = jax.eval_shape(lambda: Networks(ARCH).init(jax.random.key(0)))
    size = {
        group: 4 * sum(leaf.size for leaf in jax.tree.leaves(params[group]))
        for group in ("dpm", "encoder", "gradient")
    }
    expected = 4 * (size["encoder"] + size["gradient"]) + size["dpm"] + 16 * 8 * 8
    assert abs(train.arguments - expected) < 0.02 * expected
    # A decoding loop's cost is one step's, however many it has, but for the table of its times.
    decode, longer = (forecast.decode_loop(ARCH, 16, jax.devices(), steps=n) for n in (10, 40))
    assert decode.flops <= longer.flops < 1.2 * decode.flops < train.flops
    assert "images/s" not in "".join(forecast.lines(train, None, 16))


def test_the_roofline_is_the_longer_of_computing_and_moving():
    cost = forecast.Cost(
        flops=2e12,
        moved=1e9,
        accessed=4e9,
        cycles=3 * 10**9,
        arguments=10**9,
        temporary=10**9,
        outputs=0,
        collectives={"all-reduce": (2, 10**6)},
        compile_seconds=1.0,
    )
    assert cost.fastest(chips.Chip(1e12, 1e12, 16e9)) == 2.0
    assert cost.fastest(chips.Chip(1e15, 1e9, 16e9)) == 1.0
    said = "\n".join(forecast.lines(cost, chips.Chip(1e12, 1e12, 1e9, clock=1e9), 4))
    assert "at best 2,000 ms, 2 images/s" in said and "2 all-reduce, 1 MB" in said
    assert "0.25 an image (1 with what stays on the chip)" in said
    assert "3,000 M cycles, 3,000 ms, 1.33 images/s" in said
    in_steps = "\n".join(forecast.lines(cost, chips.Chip(1e12, 1e12, 1e9), 4, steps=10))
    assert "at best 2,000 ms, 0.2 images/s a device in 10 steps" in in_steps


def test_what_does_not_fit_is_told_what_to_set(monkeypatch):
    monkeypatch.setattr(chips, "this_machine", lambda: chips.Chip(1e12, 1e11, 1e6))
    said = []
    forecast.forecast("pdae", ARCH, SMALL, "cpu", say=said.append)
    said = "\n".join(said)
    assert "DOES NOT FIT into" in said and "--config.pdae.remat=True" in said
    assert said.count("at best ") == 2  # the train step and decoding
    assert said.count("accumulate=2") == said.count("decode fewer images at a time") == 1
    table = [line.split() for line in said.splitlines() if line.startswith(("encoder", "on each"))]
    assert [row[0] for row in table] == ["encoder", "on"]


@pytest.mark.parametrize(
    "args, says",
    [
        (["--config=configs/digits.py:latent"], "train on no pictures"),
        (
            [
                "--config=configs/digits.py",
                "--config.pdae.batch_size=9",
                "--config.pdae.accumulate=2",
            ],
            "does not divide batch_size = 9",
        ),
    ],
)
def test_bad_forecasts_are_one_line(args, says, capsys):
    assert run_command("--mode=compile", *args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.parametrize("costs, rows_at_least", [("tpu_costs", 51), ("gpu_costs", 6)])
def test_the_pages_tables_are_what_the_tool_prints(costs, rows_at_least):
    done = subprocess.run(
        [sys.executable, "tools/scale_table.py", "table", f"docs/{costs}.json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "scale.md").read_text()
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) >= rows_at_least and all(row in page for row in rows)


def test_this_machine_is_measured_once():
    chip = chips.chip_of("cpu")
    assert min(chip.flops, chip.bandwidth, chip.memory) > 0
    assert chips.chip_of("cpu") is chip and chips.chip_of("abacus") is None


@needs_the_plugin_for_cuda
def test_for_gpus_that_are_not_here():
    """The command itself, on a small config and two cards: kernels, bytes, FLOP, collectives."""
    line = "--mode=compile --topology=h100x2 --config=configs/digits.py --config.model.mult=(1,) "
    line += "--config.model.attention=() --config.pdae.batch_size=16 --config.precision=bfloat16"
    done = subprocess.run(
        [sys.executable, "-m", "pdae_jax.main", *line.split()],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    head, *programs = done.stdout.split(", on each device:\n")
    assert "2 x NVIDIA H100 80GB HBM3, batch 16 (8 a device), bfloat16" in head
    assert len(programs) == 2 and "all-reduce" in programs[0] and "all-" not in programs[1]
    for program in programs:
        kernels, summed = re.search(
            r"([\d,]+) kernels, each at its roofline \(bfloat16's\) (\S+) ms", program
        ).groups()
        best = re.search(r"at best (\S+) ms", program)[1]
        assert int(kernels.replace(",", "")) > 50 and float(summed) >= float(best) > 0
        assert "not tuned" in program and "stays on the chip" not in program


@needs_the_plugin_for_cuda
def test_flop_of_a_gpus_program_are_those_of_the_networks():
    """Counted from cuDNN's and cuBLAS's calls, forward and backward, beside XLA's own of a CPU.

    XLA counts what is no product too, and leaves out those with padding: a sixth at 8 x 8 pixels.
    """
    (gpu,), arch = chips.devices_of("h100"), dataclasses.replace(ARCH, base=128)
    train = forecast.train_step("pdae", arch, Settings(batch_size=16), [gpu])
    assert 0.9 < train.flops / (16 * forecast.training_flops(arch, "pdae")) < 1.2
    decode = forecast.decode_loop(arch, 16, [gpu], steps=10)
    assert 0.9 < decode.flops / (16 * forecast.decoding_flops(arch)) < 1.2


@needs_the_plugin_for_cuda
def test_a_gpus_attention_is_cudnns_in_bfloat16():
    """Of two cards, each of its own images; logits [B, head, n, n] are written by XLA's alone."""
    cards = chips.devices_of("h100x2")
    over_batch = sharding.over_batch(sharding.make_mesh(1, cards))

    def cost(dtype):
        def loss(*qkv):
            return flash_attention.attend(*qkv).astype(jnp.float32).sum()

        qkv = [jax.ShapeDtypeStruct((16, 256, 4, 64), dtype)] * 3
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=(over_batch,) * 3)
        return forecast.compiled(cards[0], gradients, *qkv)

    product, logits = 2 * 8 * 4 * 256 * 256 * 64, 8 * 4 * 256 * 256
    ours, xlas = cost(jnp.bfloat16), cost(jnp.float32)
    assert ours.flops == 7 * product and not ours.collectives
    assert ours.temporary < 4 * logits < xlas.temporary


def test_decoding_is_compiled_with_the_devices_options(monkeypatch):
    monkeypatch.setattr(programs, "OPTIONS", {"cpu": {"xla_no_such_option": 1}})
    with pytest.raises(Exception, match="xla_no_such_option"):
        forecast.decode_loop(ARCH, 16, jax.devices(), steps=10)


def test_without_the_plugin_for_cuda_the_remedy_is_said(monkeypatch):
    def missing(**how):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(ImportError, match=r"pip install 'pdae_jax\[gpu-forecast\]'"):
        chips.devices_of("a100")
    for topology in ("h100x0", "h100x64"):
        with pytest.raises(ValueError, match="one host's, 1 to 8 of them, got"):
            chips.devices_of(topology)


def test_without_libtpu_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(ImportError, match=r"pip install 'pdae_jax\[tpu\]'"):
        chips.devices_of("v5e:2x2")


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed (pip install 'pdae_jax[tpu]')",
)
def test_for_a_tpu_that_is_not_here():
    """The command itself, on a small config; and what it says of each of its two programs."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pdae_jax.main",
            "--mode=compile",
            "--topology=v5e:2x2",
            "--config=configs/digits.py",
            "--config.model.mult=(1,)",
            "--config.model.attention=()",
            "--config.pdae.batch_size=16",
            "--config.precision=bfloat16",
            "--config.mesh.fsdp=2",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    head, *programs = done.stdout.split(", on each device:\n")
    assert "4 x TPU v5 lite, batch 16 (4 a device), bfloat16, fsdp 2" in head and "encoder" in head
    assert len(programs) == 2 and "decoding, a step of 100" in programs[0]
    assert "all-gather" in programs[0] and "all-" not in programs[1]
    for program in programs:
        moved, accessed, best, model = (
            float(re.search(pattern, program)[1].replace(",", ""))
            for pattern in (
                r"moved, (\S+) an image",
                r"\((\S+) with what stays",
                r"at best (\S+) ms",
                r"M cycles, (\S+) ms",
            )
        )
        assert 0 < moved <= accessed and model >= best
        assert "GB of memory" in program and "compiled in" in program
    with pytest.raises(ValueError, match="no topology 'v5e:nonsense'"):
        chips.devices_of("v5e:nonsense")
