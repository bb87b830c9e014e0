"""What goes wrong around a conversion: disks, interruptions, odd values, other people's files."""

import math
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import torch
from helpers import ROOT, run_program
from test_convert import (
    TINY,
    TINY_FLAGS,
    TOOL,
    config_yml,
    named,
    quiet,
    run_tool,
    save_autoencoder,
    save_lightning,
)

from pdae_jax.convert import torch_twin
from pdae_jax.convert.architecture_facts import architecture
from pdae_jax.convert.conversion import convert, export
from pdae_jax.convert.verification import verify
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Networks
from pdae_jax.networks.layers import timestep_embedding
from pdae_jax.runtime.choices import printable
from pdae_jax.workdir.workdir import Workdir


@pytest.fixture
def encoder():
    """The state dict of an encoder of 16 px pictures."""
    torch.manual_seed(0)
    state = torch_twin.Encoder(TINY).state_dict()
    return {key: torch.randn_like(value) * 0.1 for key, value in state.items()}


@pytest.fixture
def autoencoder(tmp_path, encoder):
    """A file of the authors' layout beside its config."""
    config_yml(tmp_path / "config.yml")
    return save_autoencoder(tmp_path / "checkpoint.pt", named("shift_unet_tiny"), encoder)


def untrained(folder, **changes):
    """The workdir of a diffusion model as it is initialised."""
    arch = Architecture(**dict(image_shape=(16, 16, 3), base=32, mult=(1, 2), blocks=1) | changes)
    home = Workdir.create(folder)
    home.write_architecture(arch)
    home.save_weights(
        jax.device_get(jax.jit(lambda: Networks(arch).init(jax.random.key(0), ("dpm",)))())
    )
    return home.path


def one_line(done):
    """What a failed command said, which is one line."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("convert_torch_weights: ")
    return line


# Where results go.


def test_a_home_folder_is_the_users_everywhere(tmp_path, monkeypatch, autoencoder):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tmp_path / "config.yml"
    config.rename(tmp_path / "settings.yml")
    convert(["~/checkpoint.pt"], "~/ours", config="~/settings.yml", say=quiet)
    assert Workdir(tmp_path / "ours").architecture.heads == 2
    export("~/ours", "~/out.pt")
    assert (tmp_path / "out.pt").is_file() and verify("~/ours", ["~/checkpoint.pt"], say=quiet)
    assert not (ROOT / "~").exists()


def test_a_link_is_refused_before_the_work(tmp_path, autoencoder):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    said = []
    with pytest.raises(ValueError, match="is a link: give the folder that it leads to"):
        convert([autoencoder], tmp_path / "link", say=said.append)
    assert not said
    convert([autoencoder], tmp_path / "folder", say=quiet)


@pytest.mark.parametrize("way", ["in", "out"])
def test_a_full_disk_is_one_line(tmp_path, autoencoder, way):
    if way == "out":
        convert([autoencoder], tmp_path / "ours", say=quiet)
    words = {
        "in": (autoencoder, f"--output={tmp_path / 'ours'}"),
        "out": (tmp_path / "ours", f"--to-torch={tmp_path / 'out.pt'}"),
    }[way]
    there = {path.name for path in tmp_path.iterdir()}
    line = one_line(run_program("convert_on_full_disk", 100_000, TOOL, *words, check=False))
    assert "could not be written" in line and "make room" in line
    assert {path.name for path in tmp_path.iterdir()} == there


def started(tmp_path):
    """A conversion that takes a while, in a process of its own, and has begun to write."""
    file = tmp_path / "model.pt"
    export(untrained(tmp_path / "large", base=160), file)
    command = [sys.executable, str(TOOL), str(file), f"--output={tmp_path / 'ours'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / ".ours.partial").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    return process, command


@pytest.mark.parametrize("by", ["Ctrl-C", "kill -9"])
def test_an_interrupted_conversion_leaves_nothing_for_the_next(tmp_path, by):
    process, command = started(tmp_path)
    os.kill(process.pid, signal.SIGINT if by == "Ctrl-C" else signal.SIGKILL)
    _, said = process.communicate()
    if by == "Ctrl-C":
        assert process.returncode == 130
        assert (
            said
            == "convert_torch_weights: interrupted; what is not said to be written is not there\n"
        )
        assert not (tmp_path / ".ours.partial").exists()
    assert not (tmp_path / "ours").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == {"large", "model.pt", "ours"}
    assert Workdir(tmp_path / "ours").weights(["dpm"])


# Odd values.


def test_nothing_in_a_file_reaches_the_terminal(tmp_path):
    """Escapes in names of settings, in words and in paths; a title here."""
    evil = "\x1b]0;owned\x07"
    assert printable(f"a{evil}\nb") == "a\\x1b]0;owned\\x07\nb"
    hyper = {"img_size": 16, "net_attn": (8,), f"x{evil}": 1, "beta_scheduler": evil}
    path = save_lightning(tmp_path / f"a{evil}.ckpt", named("diffae_ddpm_tiny"), hyper)
    refused = run_tool(path, f"--output={tmp_path / 'ours'}")
    assert evil not in one_line(refused) and "\\x1b]0;owned\\x07" in refused.stderr
    taken = run_tool(path, f"--output={tmp_path / 'ours'}", "--schedule=linear", "--heads=1")
    assert taken.returncode == 0, taken.stderr
    assert "\x1b" not in taken.stdout + taken.stderr and "\\x1b]0;owned\\x07" in taken.stdout


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_std_that_z_cannot_be_divided_by_is_refused(tmp_path, encoder, std):
    config_yml(tmp_path / "config.yml")
    statistics = {"mean": torch.zeros(16), "std": torch.ones(16)}
    statistics["std"][3] = std
    file = save_autoencoder(tmp_path / "a.pt", named("shift_unet_tiny"), encoder, **statistics)
    with pytest.raises(ValueError, match=f"the std of z is {std:g} in places.* must be above 0"):
        convert([file], tmp_path / "ours", say=quiet)


def test_expanded_tensors_are_whole(tmp_path):
    """A tensor of one number that stands for all: its strides are 0."""
    state = named("unet_tiny", 1)
    name = "out.0.weight"
    state[name] = torch.tensor(0.5).expand(state[name].shape)
    torch.save({"ema_denoise_fn": state}, tmp_path / "a.pt")
    convert([tmp_path / "a.pt"], tmp_path / "ours", flags=TINY_FLAGS, say=quiet)
    scale = Workdir(tmp_path / "ours").weights()["dpm"]["up"]["norm"]["scale"]
    np.testing.assert_array_equal(scale, np.full(state[name].shape, 0.5, np.float32))


# What files do not say, or say elsewhere.


def test_the_trainers_own_layout_is_known(tmp_path, encoder):
    """run/config.yml beside run/checkpoints/latest.pt."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    config_yml(run / "config.yml", {"timesteps": 500, "betas_type": "cosine"})
    file = save_autoencoder(run / "checkpoints" / "latest.pt", named("shift_unet_tiny"), encoder)
    said = []
    convert([file], tmp_path / "ours", say=said.append)
    arch = Workdir(tmp_path / "ours").architecture
    assert (arch.heads, arch.T, arch.schedule) == (2, 500, "cosine")
    assert f"heads = 2, from {run / 'config.yml'}" in said


def test_the_class_conditional_64_px_model_is_known_by_its_shape():
    """64x64_diffusion.pt, for which nothing but a class is given."""
    arch = Architecture(
        image_shape=(64, 64, 3),
        base=192,
        mult=(1, 2, 3, 4),
        blocks=3,
        attention=(32, 16, 8),
        head_channels=64,
        learned_variance=True,
    )
    with torch.device("meta"):
        shapes = {
            k: tuple(v.shape) for k, v in torch_twin.UNet(arch, with_z=False).state_dict().items()
        }
    found, _ = architecture({"unet": shapes}, [])
    assert (found.head_channels, found.qkv_order, found.schedule) == (64, "new", "cosine")
    assert found.attention == (32, 16, 8) and found.image_shape == (64, 64, 3)


def test_diffaes_autoencoder_is_named(tmp_path):
    state = {f"encoder.{key}": value for key, value in named("diffae_ddpm_tiny").items()}
    file = save_lightning(tmp_path / "last.ckpt", state, {"img_size": 16})
    with pytest.raises(ValueError, match="Diff-AE's autoencoder.* PDAE, which is another method"):
        convert([file], tmp_path / "ours", say=quiet)


def test_an_embedding_of_its_own_width_comes_in(tmp_path):
    """Diff-AE's 64 px model: an embedding of 512 over a base of 64."""
    home = untrained(tmp_path / "wide", embedding_width=256)
    export(home, tmp_path / "a.pt")
    contents = torch.load(tmp_path / "a.pt")
    del contents["architecture"]
    torch.save(contents, tmp_path / "a.pt")
    convert([tmp_path / "a.pt"], tmp_path / "ours", flags=TINY_FLAGS, say=quiet)
    assert Workdir(tmp_path / "ours").architecture.embedding_width == 256
    assert verify(tmp_path / "ours", say=quiet)


# Out again, and the proof.


@pytest.mark.parametrize(
    "changes, why",
    [
        ({}, ""),
        ({"mult": (2, 2)}, "a first level of 2 times the base"),
        ({"base": 48}, "48 channels, which its 32 groups of a norm do not divide"),
        ({"condition": "shift"}, "blocks of another project"),
    ],
)
def test_export_says_what_the_originals_classes_do_not_build(tmp_path, capsys, changes, why):
    """The rest comes back here bit for bit, whatever it is."""
    home = untrained(tmp_path / "ours", **changes)
    export(home, tmp_path / "a.pt")
    said = capsys.readouterr().out
    assert (why in said and "own classes do not build" in said) if why else not said
    convert([tmp_path / "a.pt"], tmp_path / "back", say=quiet)
    there, back = (Workdir(path).weights()["dpm"] for path in (home, tmp_path / "back"))
    assert jax.tree.all(jax.tree.map(np.array_equal, there, back))


def test_frequencies_are_pytorchs_to_their_last_bit():
    """Within one unit in the last place of torch.exp, which at t = 999 is 6e-5 of an angle."""
    for half in (8, 16, 24, 32, 48, 64, 96, 128):
        theirs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = np.asarray(timestep_embedding(np.array([1e-3]), 2 * half))[0, half:]
        ours = np.arcsin(angles.astype(np.float64)) / 1e-3
        assert np.abs(ours / theirs.double().numpy() - 1).max() < 2.5e-7


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_was_fetched_in_place_of_a_file_is_named(tmp_path, name):
    """After a git clone of a hub's repository without Git LFS."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    page = "<!DOCTYPE html><html></html>"
    for text, says in ((pointer, "a pointer of Git LFS.*git lfs pull"), (page, "an HTML page")):
        folder = tmp_path / says[:5]
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
        (folder / name).write_text(text)
        with pytest.raises(ValueError, match=says):
            convert([folder], tmp_path / "ours", say=quiet)


def test_another_programs_config_beside_a_file_is_no_matter(tmp_path, autoencoder):
    (tmp_path / "config.json").write_text("[1, 2]")
    convert([autoencoder], tmp_path / "ours", say=quiet)
    assert Workdir(tmp_path / "ours").architecture.heads == 2
