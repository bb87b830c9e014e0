"""What is trained on z alone, and the tables of z it is trained on."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH as ARCH

import pdae_jax
from pdae_jax import latent
from pdae_jax.data import code_batches, open_source
from pdae_jax.data.dataset import Data
from pdae_jax.schedule import constant
from pdae_jax.tasks import encoding
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir import code_table
from pdae_jax.workdir.code_table import CodeTable
from pdae_jax.workdir.workdir import Workdir

QUICK = Settings(steps=2, batch_size=16, pictures_every=0, health_every=0)
DIGITS = Data("digits", flip=False)


def test_batches_of_codes_are_a_function_of_seed_and_step():
    z = np.arange(20, dtype=np.float32)[:, None]
    labels = z > 9

    def take(n, **more):
        batches = code_batches(z, labels, **{"batch_size": 8, "seed": 3, **more})
        return [next(batches) for _ in range(n)]

    whole = take(5)
    seen = np.concatenate([batch["z"][:, 0] for batch in whole])
    assert sorted(seen[:20]) == sorted(seen[20:]) == list(range(20)) and list(seen[:20]) != list(
        seen[20:]
    )
    assert all(np.array_equal(batch["label"], batch["z"] > 9) for batch in whole)
    for a, b in zip(whole[3:], take(2, start_step=3)):
        np.testing.assert_array_equal(a["z"], b["z"])
    halves = [take(5, process_index=i, process_count=2) for i in range(2)]
    for one, first, second in zip(whole, *halves):
        np.testing.assert_array_equal(one["z"], np.concatenate([first["z"], second["z"]]))
    assert not np.array_equal(take(1, seed=4)[0]["z"], whole[0]["z"])


def test_objectives_on_codes_train(workdir):
    for objective in ("latent", "classifier"):
        lines = [json.loads(line) for line in (workdir / objective / "metrics.jsonl").open()]
        assert lines[-1]["loss"] < lines[0]["loss"]
    model = pdae_jax.load(workdir)
    assert model.params.keys() == {
        "dpm",
        "encoder",
        "gradient",
        "statistics",
        "latent",
        "classifier",
    }
    assert Workdir(workdir).attributes == tuple("0123456789")
    table = Workdir(workdir).code_table("train").read()
    source = open_source("digits", "train")
    assert table.z.shape == (len(source), 8) and table.attributes == tuple("0123456789")
    np.testing.assert_allclose(
        table.z[:40],
        model.encode(np.stack([source.image(i) for i in range(40)])),
        rtol=1e-5,
        atol=1e-6,
    )
    mean, std = latent.statistics(table.z)
    np.testing.assert_allclose(model.params["statistics"]["std"], std, rtol=1e-6)
    np.testing.assert_allclose(model.params["statistics"]["mean"], mean, rtol=1e-6)


def test_an_interrupted_table_resumes_with_the_same_result(workdir, tmp_path, monkeypatch):
    model = pdae_jax.load(workdir)
    monkeypatch.setattr(code_table, "CHUNK_ROWS", 400)
    seen, encode = [], pdae_jax.Model.encode

    def table(name, checkpoints=1):
        key = {"checkpoints": checkpoints}
        return encoding.encode(model, DIGITS, "train", CodeTable(tmp_path / name), key)

    def fail(self, images):
        if len(seen) == 10:
            raise KeyboardInterrupt
        seen.append(1)
        return encode(self, images)

    whole = table("whole")
    monkeypatch.setattr(pdae_jax.Model, "encode", fail)
    with pytest.raises(KeyboardInterrupt):
        table("cut")
    assert len(list((tmp_path / "cut" / "chunks").glob("0*.npz"))) == 1
    monkeypatch.setattr(pdae_jax.Model, "encode", encode)
    again = table("cut")
    for a, b in zip(whole, again):
        np.testing.assert_array_equal(a, b)
    monkeypatch.setattr(pdae_jax.Model, "encode", fail)  # done: nothing is encoded again
    table("cut")
    with pytest.raises(KeyboardInterrupt):  # of other checkpoints: all is
        table("cut", checkpoints=2)


def test_what_latent_training_needs_is_said(tmp_path):
    with pytest.raises(ValueError, match="latent needs a trained dpm and encoder and gradient"):
        train(tmp_path, "latent", arch=ARCH, data=DIGITS, settings=QUICK)


def test_latent_samples_have_the_statistics_of_what_they_are_drawn_from():
    """A latent model that knows its data, independent Gaussians: its samples are of them."""
    params = {"statistics": {"mean": jnp.arange(8.0), "std": jnp.linspace(0.5, 2, 8)}}
    schedule = constant()
    exact = dataclasses.make_dataclass("Exact", ["arch"])(ARCH)
    exact.latent_time = lambda params, t: jnp.asarray(schedule.alpha_bar, jnp.float32)[t][:, None]
    # E[eps | z_t] = sqrt(1 - alpha_bar) z_t for normal z_0.
    exact.latent_eps = lambda params, z_t, alpha_bar: jnp.sqrt(1 - alpha_bar) * z_t
    rngs = jax.random.split(jax.random.key(0), 20_000)
    z = latent.sample(exact, params, rngs, schedule, steps=500)  # each step errs a little
    np.testing.assert_allclose(z.mean(0), np.arange(8), atol=0.06)
    np.testing.assert_allclose(z.std(0), np.linspace(0.5, 2, 8), rtol=0.03)


def test_oddities_of_the_original_are_options(workdir):
    model = pdae_jax.load(workdir)
    rngs = jax.random.split(jax.random.key(1), 64)
    plain, clamped, clipped = (
        latent.sample(model.net, model.params, rngs, constant(), 10, **odd)
        for odd in ({}, {"clamp": True}, {"clip": True})
    )
    assert not np.allclose(plain, clamped) and not np.allclose(plain, clipped)
    # z_0 is within [-1, 1]; at time 0, where the loop ends, alpha_bar is 0.992.
    bound = 1 + 5 * np.sqrt(1 - constant().alpha_bar[0])
    assert np.abs(latent.normalise(model.params["statistics"], clipped)).max() <= bound


def test_classifier_learns_a_plane_and_ignores_what_is_not_known():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 5)).astype(np.float32)
    w = np.array([[1.0, 0], [2, 0], [0, 1], [0, -1], [0, 0]])
    labels = (z @ w > 0).astype(np.float32)
    labels[rng.random(labels.shape) < 0.3] = np.nan
    params = {"kernel": jnp.zeros((5, 2)), "bias": jnp.zeros(2)}
    step = jax.jit(jax.grad(lambda p: latent.classifier_loss(p, z, labels).mean()))
    for _ in range(200):
        params = jax.tree.map(lambda p, g: p - 2.0 * g, params, step(params))
    for k in range(2):
        found = latent.direction(params, k)
        assert float(found @ (w[:, k] / np.linalg.norm(w[:, k]))) > 0.99
    none = latent.classifier_loss(params, z[:3], np.full((3, 2), np.nan, np.float32))
    np.testing.assert_array_equal(none, 0)


def test_edits_move_one_logit_and_keep_the_fixed_ones():
    rng = np.random.default_rng(0)
    classifier = {
        "kernel": jnp.asarray(rng.standard_normal((16, 4)), jnp.float32),
        "bias": jnp.zeros(4),
    }
    statistics = {
        "mean": jnp.asarray(rng.standard_normal(16), jnp.float32),
        "std": jnp.asarray(rng.uniform(0.5, 2, 16), jnp.float32),
    }
    z = jnp.asarray(rng.standard_normal((3, 16)), jnp.float32)

    def moved(direction, strength=0.3):
        after = latent.edit(statistics, z, direction, strength)
        return np.asarray(
            latent.logits(classifier, latent.normalise(statistics, after))
            - latent.logits(classifier, latent.normalise(statistics, z))
        )

    free, kept = latent.direction(classifier, 1), latent.direction(classifier, 1, fixed=(0, 2))
    np.testing.assert_allclose(jnp.linalg.norm(free), 1, rtol=1e-6)
    assert (moved(free)[:, 1] > 0).all() and np.abs(moved(free)[:, [0, 2]]).max() > 0.1
    assert (moved(kept)[:, 1] > 0).all() and np.abs(moved(kept)[:, [0, 2]]).max() < 1e-4
    step = 0.3 * 4 * float(jnp.linalg.norm(classifier["kernel"][:, 1]))  # s sqrt(d) |w|
    np.testing.assert_allclose(moved(free)[:, 1], step, rtol=1e-4)


def test_a_matched_direction_is_of_the_attribute_alone():
    """Where another label goes with it, and correlated noise turns a classifier's direction."""
    rng = np.random.default_rng(0)
    labels = (rng.random((4000, 3)) < 0.5).astype(np.float32)
    labels[:, 1] = np.where(rng.random(4000) < 0.9, labels[:, 0], labels[:, 1])  # a companion
    labels[labels[:, 0] == 1, 2] = 0  # one that excludes it, such as another skin
    effects = np.eye(3, 6)
    noise = rng.standard_normal((4000, 1)) * [[1, 0, 0, 1, 0, 0]]
    z = labels @ effects + noise + 0.1 * rng.standard_normal((4000, 6))
    found, pairs = latent.matched_direction(z, labels, 0)
    np.testing.assert_allclose(np.linalg.norm(found), 1, rtol=1e-6)
    without = labels[:, 0] == 0
    share = labels[without, 2].mean()  # of those without, the excluded one is part
    expected = effects[0] - share * effects[2]
    assert found @ expected / np.linalg.norm(expected) > 0.99
    assert abs(found[1]) < 0.05  # the companion is matched
    assert 0 < pairs < 2000
    plain = z[labels[:, 0] == 1].mean(0) - z[without].mean(0)
    assert plain[1] / np.linalg.norm(plain) > 0.3  # where nothing is matched it is not
    two = np.array([[1, 1], [0, 0]], np.float32)
    with pytest.raises(ValueError, match="no two codes differ in the attribute and agree"):
        latent.matched_direction(z[:2], two, 0)
    unknown = np.concatenate([labels, np.full((4000, 1), np.nan, np.float32)], 1)
    np.testing.assert_allclose(latent.matched_direction(z, unknown, 0)[0], found, atol=1e-6)
