"""What no tensor shows, decided by pictures: on a trained model, a wrong flag, and no model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from helpers import DIGITS_ARCH, assert_close
from PIL import Image
from test_convert import named, quiet, run_tool

from pdae_jax.convert import candidates
from pdae_jax.convert.conversion import convert, export
from pdae_jax.convert.verification import verify
from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import SCHEDULES
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

# Nothing of it is what conversion assumes where nothing tells: 1 head, legacy, linear.
ARCH = dataclasses.replace(DIGITS_ARCH, attention=(8,), heads=2, qkv_order="new", schedule="cosine")
FLAGS = {"image_size": 8}


def save_bare(run, path):
    """A PyTorch file of a run as the authors would have written it: without its architecture."""
    export(run, path)
    contents = torch.load(path)
    del contents["architecture"]
    torch.save(contents, path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of held-out digits as PNGs."""
    folder = tmp_path_factory.mktemp("digits")
    source = Data("digits").open("test")
    for k, picture in enumerate(first_pictures(source, ARCH.image_shape, candidates.PICTURES)):
        Image.fromarray(picture[..., 0]).save(folder / f"{k:03}.png")
    return folder


def trained_file(folder, arch):
    """The file of a trained model: for half a minute, as long as heads need to matter."""
    settings = Settings(
        steps=300,
        batch_size=32,
        learning_rate=4e-3,
        decay="cosine",
        ema=0.98,
        pictures_every=0,
        health_every=0,
    )
    data = Data("digits", flip=False)
    assert train(folder / "run", "dpm", arch=arch, data=data, settings=settings)
    return save_bare(folder / "run", folder / "model.pt")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_file(tmp_path_factory.mktemp("trained"), ARCH)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """{scale: the file of an untrained model}: 0 as it is initialised, else of normal weights."""
    params = jax.device_get(jax.jit(lambda: Networks(ARCH).init(jax.random.key(0), ("dpm",)))())
    rng = np.random.default_rng(0)
    files = {}
    for scale in (0, 0.1):
        if scale:
            params = jax.tree.map(
                lambda a: rng.normal(0, scale, a.shape).astype(np.float32) if a.ndim > 1 else a,
                params,
            )
        workdir = Workdir.create(tmp_path_factory.mktemp("untrained"))
        workdir.write_architecture(ARCH)
        workdir.save_weights(params)
        files[scale] = save_bare(workdir.path, workdir.path / "model.pt")
    return files


def found(arch):
    return arch.heads, arch.head_channels, arch.qkv_order, arch.schedule, arch.predicts


@pytest.mark.slow
@pytest.mark.nightly
def test_pictures_decide_what_was_assumed(trained, digits, tmp_path):
    said = []
    convert(
        [trained],
        tmp_path / "out",
        flags=FLAGS,
        images=digits,
        say=said.append,
    )
    assert found(Workdir(tmp_path / "out").architecture) == (2, 0, "new", "cosine", "eps")
    assert "heads = 1, assumed: nothing here tells" in said
    for fact in ("heads = 2", "qkv_order = new", "schedule = cosine", "predicts = eps"):
        assert f"{fact}, measured: it denoises the pictures best" in said
    table = next(line for line in said if "no network" in line).splitlines()
    assert table[0].endswith("heads = 2, qkv_order = new, schedule = cosine, predicts = eps")
    assert any(line.endswith("schedule = linear, predicts = eps  (so far)") for line in table)
    shown = [float(line.split()[0]) for line in table if line.split()[0][0] == "0"]
    assert shown[:-1] == sorted(shown[:-1])  # the last is of no network

    receipt = Workdir(tmp_path / "out").receipt
    assert "schedule = cosine, measured: it denoises the pictures best" in receipt["told"]
    losses = receipt["pictures"]["losses"]
    assert len(losses) == len(candidates.candidates(ARCH)) and losses[0]["heads"] == 2
    right, assumed = (
        losses[0]["loss"],
        max(one["loss"] for one in losses if one["schedule"] == "linear"),
    )
    assert right < 0.9 * assumed and right < 0.6 * receipt["pictures"]["no_network"]

    said = []
    assert verify(tmp_path / "out", say=said.append)
    assert "assumed: T = 1000" in said[-1] and "heads" not in said[-1]


@pytest.mark.slow
@pytest.mark.nightly
def test_pictures_decide_what_is_predicted(digits, tmp_path):
    file = trained_file(tmp_path, dataclasses.replace(ARCH, predicts="v"))
    said = []
    flags = FLAGS | {"heads": 2, "qkv_order": "new", "schedule": "cosine"}
    convert([file], tmp_path / "out", flags=flags, images=digits, say=said.append)
    assert Workdir(tmp_path / "out").architecture.predicts == "v"
    assert "predicts = v, measured: it denoises the pictures best" in said


@pytest.mark.nightly
@pytest.mark.slow
def test_a_wrong_flag_is_kept_with_a_warning_and_a_right_one_agrees(trained, digits, tmp_path):
    images, model = f"--images={digits}", trained
    done = run_tool(model, f"--output={tmp_path / 'wrong'}", "--image_size=8", "--heads=1", images)
    assert done.returncode == 0, done.stderr
    assert found(Workdir(tmp_path / "wrong").architecture) == (1, 0, "legacy", "cosine", "eps")
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert "kept heads = 1, from a flag" in warning and "lower by 0.0" in warning
    flags = [word for word in warning.split() if word.startswith("--")]
    assert flags == ["--heads=2", "--qkv_order=new", "--schedule=cosine", "--predicts=eps"]

    done = run_tool(model, f"--output={tmp_path / 'right'}", "--image_size=8", *flags, images)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout
    for fact in ("heads = 2", "qkv_order = new", "schedule = cosine", "predicts = eps"):
        assert f"{fact}, from a flag; the pictures agree" in done.stdout.splitlines()


@pytest.mark.slow
def test_a_wrong_file_is_named_in_the_warning(trained, digits, tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes((trained).read_bytes())
    config = {"base_channel": 32, "num_heads": 4, "use_new_attention_order": False}
    (tmp_path / "config.yml").write_text(json.dumps(config))
    said = []
    convert([model], tmp_path / "out", flags=FLAGS, images=digits, say=said.append)
    assert found(Workdir(tmp_path / "out").architecture) == (4, 0, "legacy", "cosine", "eps")
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "--heads=2 --qkv_order=new" in warning
    assert warning.endswith(f"and mend or leave out {tmp_path / 'config.yml'}")


@pytest.mark.slow
def test_where_heads_make_no_difference_the_schedule_alone_is_decided(trained, digits, tmp_path):
    """A trained model whose attention adds nothing: all heads have one loss, to the bit."""
    contents = torch.load(trained)
    for key, tensor in contents["ema_denoise_fn"].items():
        if "proj_out" in key:
            tensor.zero_()
    torch.save(contents, tmp_path / "model.pt")
    said = []
    convert(
        [tmp_path / "model.pt"],
        tmp_path / "out",
        flags=FLAGS,
        images=digits,
        say=said.append,
    )
    assert found(Workdir(tmp_path / "out").architecture) == (1, 0, "legacy", "cosine", "eps")
    (line,) = [line for line in said if line.startswith("these pictures do not decide")]
    assert "as good, within noise" in line and "kept heads = 1, assumed" in line
    assert "schedule" not in line and not any(line.startswith("warning") for line in said)


@pytest.mark.parametrize("scale", [0, 0.1])
def test_an_untrained_model_decides_nothing(untrained, digits, tmp_path, scale):
    said = []
    convert([untrained[scale]], tmp_path / "out", flags=FLAGS, images=digits, say=said.append)
    assert found(Workdir(tmp_path / "out").architecture) == (1, 0, "legacy", "linear", "eps")
    (line,) = [line for line in said if line.startswith("these pictures do not decide")]
    assert "is the model trained" in line and "schedule = linear, assumed" in line
    assert not any("measured" in line or line.startswith("warning") for line in said)


# The parts.


def test_candidates_are_the_networks_that_differ():
    """32 channels: 1, 2, 4 and 8 heads, in two orders but of one head; 32 a head are one head.

    Each under every schedule, and with each output.
    """
    found = candidates.candidates(ARCH)
    assert found[0] == ARCH and len(found) == 3 * len(candidates.LIKELY) * (1 + 3 * 2)
    for k, one in enumerate(found):
        assert not any(candidates.same(one, other) for other in found[:k])
    wide = dataclasses.replace(ARCH, base=96, head_channels=32)
    splits = {candidates.value(one, "heads") for one in candidates.candidates(wide)}
    assert splits == {(3,), (1,), (2,), (4,), (8,)}  # 64 do not divide 96
    short = dataclasses.replace(ARCH, T=20)  # too few for the linear schedule
    there = {one.schedule for one in candidates.candidates(short)}
    assert there == set(candidates.LIKELY) - {"linear"}


def test_an_order_is_a_permutation_of_columns():
    """One program for both orders: the parameters of "new", reordered, in a network of "legacy"."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32),
        jax.device_get(jax.jit(lambda: Networks(ARCH).init(jax.random.key(0), ("dpm",)))()),
    )
    x, t = rng.standard_normal((2, *ARCH.image_shape), np.float32), np.array([3, 700])

    def eps(arch, params):
        net = Networks(arch)
        return net.predict(params, x, net.time(params, t)).eps

    legacy = dataclasses.replace(ARCH, qkv_order="legacy")
    wanted = eps(ARCH, params)
    assert_close(eps(legacy, candidates.legacy_order(ARCH, params)), wanted, 1e-5)
    assert not np.allclose(eps(legacy, params), wanted, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_finds_its_own_times(name):
    alpha_bar = SCHEDULES[name](1000).alpha_bar
    np.testing.assert_array_equal(candidates.nearest_times(alpha_bar, alpha_bar), np.arange(1000))


def test_noise_is_no_evidence():
    """Losses that differ by chance alone, a thousand times: no claim. A steady difference is one.

    Expected are CHANCE, shared by all candidates and rounds, times a thousand: about 0.01.
    """
    rng = np.random.default_rng(0)
    losses = rng.gamma(1.0, 0.1, (21, 64))
    measured = candidates.Measurement(candidates.candidates(ARCH), losses, np.ones(64))
    pairs = rng.gamma(1.0, 0.1, (1000, 2, 64))
    assert not any(measured.better(one, other) for one, other in pairs)
    assert measured.better(losses[0], losses[0] + rng.gamma(1.0, 0.01, 64))
    assert not measured.better(losses[0], losses[0])


# Refusals.


def test_images_are_refused_where_they_mean_nothing(untrained, digits, tmp_path):
    torch.save(named("lpips_alexnet", 1), tmp_path / "alexnet.pth")
    with pytest.raises(ValueError, match="needs a diffusion model.* alexnet alone; leave it out"):
        convert([tmp_path / "alexnet.pth"], tmp_path / "out", images=digits, say=quiet)
    done = run_tool(tmp_path, f"--to-torch={tmp_path / 'x.pt'}", "--images=y")
    assert done.returncode == 2 and "--images would be unused with --to-torch" in done.stderr
    np.save(tmp_path / "two.npy", np.zeros((8, 8, 2), np.uint8))
    for path, says in (("none", "none"), ("two.npy", "channels")):
        with pytest.raises(ValueError, match=says) as caught:
            convert(
                [untrained[0]],
                tmp_path / "out",
                flags=FLAGS,
                images=tmp_path / path,
                say=quiet,
            )
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
