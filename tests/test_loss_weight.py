"""The weightings of the loss over t, against their closed forms; their refusals; training."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import DIGITS_ARCH

from pdae_jax import pdae
from pdae_jax.data.dataset import Data
from pdae_jax.loss_weight import MOST, PAPER, WEIGHTINGS
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import SCHEDULES, Schedule, linear
from pdae_jax.training import losses
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

SETTINGS = [
    Settings(weighting=name, gamma=0.5 if name == "p2" else PAPER) for name in sorted(WEIGHTINGS)
]
QUICK = Settings(steps=2, batch_size=16, pictures_every=0, health_every=0, ema=0.5)


@pytest.fixture(params=sorted(SCHEDULES))
def schedule(request):
    return SCHEDULES[request.param]()


def snr_of(schedule):
    return schedule.alpha_bar / (1 - schedule.alpha_bar)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.weighting)
def test_every_weight_is_positive_float64_over_t(schedule, settings):
    weight = settings.loss_weight(schedule)
    assert weight.shape == (schedule.T,) and weight.dtype == np.float64 and (weight > 0).all()


def test_the_default_is_the_papers(schedule):
    snr = snr_of(schedule)
    np.testing.assert_array_equal(schedule.loss_weight(), snr**0.1 / (1 + snr))
    np.testing.assert_array_equal(Settings().loss_weight(schedule), schedule.loss_weight())


@pytest.mark.parametrize("gamma", [-1.0, -0.3, 0.0, 0.5, 1.0, 2.0])
def test_gamma_is_a_power_of_snr(schedule, gamma):
    weight, snr = schedule.loss_weight(gamma), snr_of(schedule)
    np.testing.assert_allclose(weight * (1 + snr), snr**gamma, rtol=1e-12)


def test_gamma_from_0_to_1_is_from_1_minus_alpha_bar_to_alpha_bar(schedule):
    low, high = schedule.loss_weight(0.0), schedule.loss_weight(1.0)
    np.testing.assert_allclose(low, 1 - schedule.alpha_bar, rtol=1e-9)
    np.testing.assert_allclose(high, schedule.alpha_bar, rtol=1e-9)
    np.testing.assert_allclose(
        schedule.loss_weight(0.3), low**0.7 * high**0.3, rtol=1e-9
    )  # between them, a straight line in logs


def test_p2(schedule):
    np.testing.assert_allclose(
        schedule.loss_weight(1.0, "p2"), schedule.loss_weight(0.0), rtol=1e-12
    )
    np.testing.assert_allclose(schedule.loss_weight(0.0, "p2"), 1)
    np.testing.assert_allclose(
        schedule.loss_weight(0.5, "p2") ** 2, 1 - schedule.alpha_bar, rtol=1e-9
    )


def test_min_snr_is_constant_below_5_and_above_it_counts_x_0_alike(schedule):
    weight, snr = schedule.loss_weight(weighting="min-snr"), snr_of(schedule)
    np.testing.assert_array_equal(weight[snr < MOST], 1)
    np.testing.assert_allclose((weight * snr)[snr >= MOST], MOST, rtol=1e-12)


def test_log_snr_sums_to_the_range_of_log_snr(schedule):
    weight, log = schedule.loss_weight(weighting="log-snr"), np.log(snr_of(schedule))
    step = (log[0] - log[-1]) / schedule.T
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-12)
    np.testing.assert_allclose(weight[1:-1] * step, (log[:-2] - log[2:]) / 2, rtol=1e-9)
    # A function's weighted mean is its mean over log SNR: of log SNR itself, the middle.
    np.testing.assert_allclose((weight * log).mean(), (log[0] + log[-1]) / 2, rtol=1e-9, atol=1e-9)


def test_log_snr_of_a_schedule_that_is_uniform_in_it_is_constant():
    log = np.linspace(5, -5, 50)
    alpha_bar = 1 / (1 + np.exp(-log))
    schedule = Schedule(1 - alpha_bar / np.append(1, alpha_bar[:-1]))
    weight = schedule.loss_weight(weighting="log-snr")
    np.testing.assert_allclose(weight[1:-1] / weight[1], 1, rtol=1e-6)
    np.testing.assert_array_equal(Schedule(np.array([0.5])).loss_weight(weighting="log-snr"), 1)


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(weighting="minsnr"), "no weighting 'minsnr'; did you mean 'min-snr'"),
        (dict(gamma=float("nan")), "gamma must be a finite number, got nan"),
        (dict(gamma=float("-inf")), "gamma must be a finite number, got -inf"),
        (dict(weighting="constant", gamma=0.5), "gamma = 0.5 would have no effect"),
        (dict(weighting="log-snr", gamma=0.0), "gamma = 0 would have no effect"),
        (dict(weighting="p2"), "'p2' needs a gamma of its own"),
    ],
)
def test_refused_at_the_door(given, words):
    with pytest.raises(ValueError, match=words) as error:
        Settings(**given)
    assert "\n" not in str(error.value)


def test_refused_where_they_meet_the_schedule():
    with pytest.raises(ValueError, match="gamma = -20 makes weights beyond float32"):
        Settings(gamma=-20.0).loss_weight(linear())
    with pytest.raises(ValueError, match="no weighting 'snr'"):
        linear().loss_weight(weighting="snr")


@pytest.mark.parametrize("name, value", [("weighting", "constant"), ("gamma", 0.5)])
def test_other_objectives_refuse_it(tmp_path, name, value):
    settings = dataclasses.replace(QUICK, **{name: value})
    with pytest.raises(ValueError, match=f"{name} = {value} would have no effect on dpm"):
        train(tmp_path / "run", "dpm", arch=DIGITS_ARCH, data=Data("digits"), settings=settings)


def test_each_weighs_the_loss_of_every_example():
    net, schedule = Networks(DIGITS_ARCH), SCHEDULES[DIGITS_ARCH.schedule](DIGITS_ARCH.T)
    params = jax.jit(lambda: net.init(jax.random.key(0), ("dpm", "encoder", "gradient")))()
    t = np.array([0, 1, schedule.T // 2, schedule.T - 1])
    x_0, eps = (
        np.asarray(jax.random.normal(jax.random.key(i), (4, 8, 8, 1)), np.float32) for i in (1, 2)
    )
    drawn = {"x_0": x_0, "t": t, "eps": eps}

    def loss(weight):
        return losses.pdae_loss(losses.Given(net, schedule, params, weight), drawn)

    plain = loss(np.ones(schedule.T))
    for settings in SETTINGS:
        weight = settings.loss_weight(schedule)
        np.testing.assert_allclose(loss(weight), plain * weight[t], rtol=2e-5)
    default = pdae.training_loss(net, params, schedule, **drawn)
    np.testing.assert_array_equal(default, loss(schedule.loss_weight()))


def test_a_run_records_it_and_one_from_before_it_goes_on(tmp_path, capfd):
    how = dict(arch=DIGITS_ARCH, data=Data("digits"))
    settings = dataclasses.replace(QUICK, weighting="min-snr")
    train(tmp_path, "dpm", **how, settings=QUICK)
    train(tmp_path, "pdae", **how, settings=settings)
    records = Workdir(tmp_path).records("pdae")
    assert records.settings()["weighting"] == "min-snr"

    # As a version without the field left it.
    file = tmp_path / "pdae" / "settings.jsonl"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in before.items() if k != "weighting"}) + "\n")
    capfd.readouterr()
    assert train(tmp_path, "pdae", **how, settings=settings)
    assert "no effect on it: weighting = min-snr (it was gamma)" in capfd.readouterr().err
    assert train(tmp_path, "pdae", **how, settings=dataclasses.replace(QUICK, steps=3))
    assert records.settings()["weighting"] == "gamma"
    assert Workdir(tmp_path).latest_steps["pdae"] == 3
