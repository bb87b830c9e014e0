"""Whether a run is called trained or undertrained: the rules, and a real short run's report."""

import dataclasses
import re

import numpy as np
import pytest
from helpers import DIGITS_ARCH
from sklearn.decomposition import PCA

from pdae_jax.commands import report
from pdae_jax.commands.page_command import run_page
from pdae_jax.data.dataset import Data
from pdae_jax.tasks.verdict import Evidence, judge, principal_error
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train

GOOD = Evidence(
    alone=0.018, mean=0.063, pca=0.005, components=256, inferred=4e-6, bare=5e-6, used=2.6
)


def test_a_good_run_is_called_trained():
    good, sentence = judge(GOOD)
    assert good and sentence.startswith("Trained: from z alone held-out pictures have an error of")
    assert (
        "29% of the mean picture's (0.063); 256 principal components, which are fitted to this"
        in (sentence)
    )
    assert "back to 4e-06 says nothing of this: without z it does to 5e-06." in sentence
    worse = judge(GOOD._replace(bare=0.05))  # then z has its part in it
    assert worse.good and "without z" not in worse.sentence


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"done": 0.5}, "50% of the planned steps are done: run the command again"),
        ({"dpm_done": 0.3}, "the diffusion model has 30% of its planned steps"),
        ({"untrained": 0.8}, "80% of the average that is used are the untrained weights"),
        ({"used": 1.02}, "z is hardly used"),
        ({"alone": 0.05}, "z says little of a picture yet"),
        ({"alone": 0.13}, "206% of the mean picture's"),
    ],
)
def test_each_fault_is_named_with_its_remedy(changes, words):
    good, sentence = judge(GOOD._replace(**changes))
    assert not good and sentence.startswith("Undertrained: ") and words.lower() in sentence.lower()


@pytest.mark.parametrize("components", [5, 500])
def test_principal_components_are_scikit_learns(components):
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((8, 48))
    train, held_out = (rng.standard_normal((n, 8)) @ mixing for n in (40, 12))
    noise = 0.1 * rng.standard_normal((40, 48))
    train = (train + noise).reshape(40, 4, 4, 3)
    held_out = held_out.reshape(12, 4, 4, 3)
    found, k = principal_error(train, held_out, components)
    pca = PCA(k).fit(train.reshape(40, -1))
    rest = held_out.reshape(12, -1)
    wanted = np.mean((pca.inverse_transform(pca.transform(rest)) - rest) ** 2)
    assert k == min(components, 39)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_averages_fit_the_run():
    assert Settings(steps=550_000).average == 0.9999  # the paper's
    assert Settings(steps=200).average == pytest.approx(0.975)
    assert Settings(steps=200, ema=0.5).average == 0.5
    for steps in (20, 200, 20_000):
        assert Settings(steps=steps).average ** steps < 0.01


def test_a_short_run_has_a_curve_too():
    lines = {steps: Settings(steps=steps).steps_a_line for steps in (5, 50, 400, 550_000)}
    assert lines == {5: 1, 50: 2, 400: 20, 550_000: 100}
    assert Settings(steps=50, log_every=25).steps_a_line == 25


def test_a_run_of_50_steps_is_called_undertrained(tmp_path, capsys):
    """By its own report, and in the command's last line."""
    arch, data = dataclasses.replace(DIGITS_ARCH, z_size=8), Data("digits", flip=False)
    settings = Settings(steps=50, batch_size=16, pictures_every=0, save_every=50)
    for objective in ("dpm", "pdae"):
        assert train(tmp_path, objective, arch=arch, data=data, settings=settings)
    options = report.Options(sections=("evaluate",), scored=32)
    page = run_page("report", tmp_path, options).page.read_text()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("Undertrained: from z alone") and "principal components" in last
    with_z, without = (float(found) for found in re.findall(r"to (\d\S*e-\d+)", last))
    assert 0 < without < 1e-3 and 0 < with_z < 1e-3  # a round trip, however short the training
    assert '<p class="verdict bad">Undertrained: ' in page
    assert "shuffled_over_own" in (tmp_path / "pdae" / "metrics.jsonl").read_text()
