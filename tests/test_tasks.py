"""What one does with z, on a small trained model and in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH as ARCH

import pdae_jax
from pdae_jax import latent, pdae
from pdae_jax.data import open_source
from pdae_jax.networks.groups import Networks
from pdae_jax.schedule import linear
from pdae_jax.tasks import few_shot, one_step
from pdae_jax.tasks import generation as generate
from pdae_jax.tasks import linear_probe as probe
from pdae_jax.tasks import manipulation as manipulate
from pdae_jax.workdir.code_table import Codes
from pdae_jax.workdir.workdir import Workdir


@pytest.fixture(scope="module")
def model(workdir):
    return pdae_jax.load(workdir, batch_size=8)


@pytest.fixture(scope="module")
def images():
    source = open_source("digits", "test")
    return np.stack([source.image(i) for i in range(6)])


def test_a_picture_generated_depends_on_its_number_alone(model):
    few, many = (model.generate(n, steps=3, latent_steps=3, rng=5) for n in (3, 10))
    np.testing.assert_allclose(few, many[:3], atol=1e-5)
    assert np.abs(many).max() <= 1 and len({one.tobytes() for one in many}) == 10
    z = [model.generate_codes(n, 3, rng=5) for n in (3, 10)]
    np.testing.assert_allclose(z[0], z[1][:3], atol=1e-5)
    other = model.generate(3, steps=3, latent_steps=3, rng=6)
    assert not np.allclose(few, other)


def test_manipulation_starts_from_the_pictures_own_x_T(model, images):
    direction = latent.direction(model.params["classifier"], 3)
    edited = manipulate.manipulate(model, images, direction, (-0.4, 0.0, 0.4))
    assert edited.shape == (6, 3, 8, 8, 1)
    z = model.encode(images)
    same = model.decode(z, model.invert(images, z))
    np.testing.assert_allclose(edited[:, 1], same, atol=1e-4)
    alone = manipulate.manipulate(model, images, direction, (0.0,), inferred=False)[:, 0]
    np.testing.assert_allclose(alone, model.decode(z, temperature=0.0), atol=1e-5)
    assert not np.allclose(alone, same, atol=1e-2)


def test_rejection_is_bounded_and_honest(model):
    d = ARCH.z_size
    none = generate.generate_codes_of_class(
        model, {"kernel": np.zeros(d), "bias": -30.0}, 4, most=5
    )
    assert len(none.z) == 0 and none.drawn == 20 and none.rate == 0
    every = generate.generate_codes_of_class(model, {"kernel": np.zeros(d), "bias": 30.0}, 4)
    assert len(every.z) == 4 and (every.probability > 0.99).all()
    half = generate.generate_codes_of_class(model, {"kernel": np.zeros(d), "bias": 0.01}, 400)
    assert 0.4 < half.rate < 0.6  # p = 0.5: taken with p(y|z)
    kernel = 40 * np.eye(d)[0]
    one_side = generate.generate_codes_of_class(model, {"kernel": kernel, "bias": 0.0}, 20)
    assert (latent.normalise(model.params["statistics"], one_side.z)[:, 0] > 0).all()


def test_the_gap_is_the_distance_of_the_true_posterior_mean():
    """Of a model that knows eps, without G, there is none; with G it is |Sigma G|^2."""
    schedule, net = linear(), Networks(ARCH)
    params = jax.jit(lambda: net.init(jax.random.key(0)))()
    params["gradient"] = jax.tree.map(lambda p: p + 0.05, params["gradient"])
    x_0 = jax.random.uniform(jax.random.key(1), (3, 8, 8, 1), minval=-1, maxval=1)
    eps, t, z = (
        jax.random.normal(jax.random.key(2), x_0.shape),
        jnp.array([3, 200, 900]),
        jnp.ones((3, ARCH.z_size)),
    )
    exact = ExactNoise(net, eps)
    bare, shifted = jax.jit(lambda: pdae.posterior_gap(exact, params, schedule, x_0, t, eps, z))()
    x_t = schedule.x_t(x_0, t, eps)
    G = net.predict(params, x_t, net.time(params, t), net.code(params, z)).gradient
    sigma = schedule.posterior_variance[np.asarray(t)]
    np.testing.assert_allclose(bare, 0, atol=1e-6)
    np.testing.assert_allclose(
        shifted, (sigma[:, None, None, None] * G).__pow__(2).sum((1, 2, 3)), rtol=1e-3
    )
    plain, moved, gradient = jax.jit(
        lambda: pdae.one_step_x_0(exact, params, schedule, x_t, t, z)
    )()
    np.testing.assert_allclose(plain, x_0, atol=1e-3)
    np.testing.assert_allclose(gradient, G, rtol=1e-4, atol=1e-6)
    assert not np.allclose(plain, moved)


class ExactNoise:
    """The networks, but that eps_theta is the noise that was added."""

    def __init__(self, net, eps):
        self.net, self.eps = net, eps
        self.time, self.code = net.time, net.code

    def predict(self, *args, **kwargs):
        return self.net.predict(*args, **kwargs)._replace(eps=self.eps)


def test_gap_and_denoise_by_the_model(model, images):
    found = one_step.gap(model, images, [10, 500, 990])
    again = one_step.gap(model, images, [500])
    np.testing.assert_allclose(found.bare[1], again.bare[0], rtol=1e-5)
    assert (found.bare > 0).all() and found.closed < 1
    odd = one_step.gap(model, images, [500], uniform=True)  # the original's noise: not centred
    assert not np.isclose(odd.bare[0], again.bare[0], rtol=0.05)
    rows = one_step.denoise(model, images, [0, 999])
    assert rows.x_t.shape == rows.gradient.shape == (2, 6, 8, 8, 1)
    np.testing.assert_allclose(rows.x_t[0], images / 127.5 - 1, atol=0.06)
    assert np.abs(rows.shifted).max() <= 1


def test_probe_scores_what_is_there_and_leaves_out_what_cannot_be():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 6))
    labels = np.stack(
        [
            x[:, 0] > 0,
            x[:, 1] + rng.standard_normal(600) > 0,
            rng.random(600) > 0.5,
            3 * x[:, 2] + 1,
            np.ones(600),
        ],
        1,
    )
    labels[rng.random(labels.shape) < 0.1] = np.nan
    found = probe.probe(
        x[:400],
        labels[:400],
        x[400:],
        labels[400:],
        ("sign", "noisy", "nothing", "number", "constant"),
    )
    by_name = {one.attribute: one for one in found}
    assert by_name.keys() == {"sign", "noisy", "nothing", "number"}
    assert by_name["sign"].scores["auroc"].value > 0.99
    assert 0.7 < by_name["noisy"].scores["auroc"].value < 0.95
    nothing = by_name["nothing"].scores["auroc"]
    assert nothing.low < 0.5 < nothing.high and nothing.low < nothing.value < nothing.high
    assert by_name["number"].kind == "number" and by_name["number"].scores["r"].value > 0.99


def test_few_shot_classifiers_from_labels_and_from_positives_alone(workdir, model):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((3000, 8))
    y = (z[:, 0] + z[:, 1] > 1).astype(float)
    table = Codes(z, y[:, None], ("side",), np.arange(3000))
    for n_unlabelled in (0, 1000):
        params, record = few_shot.fit(table, table, "side", 50, 50, n_unlabelled, seed=1)
        agreement = ((z @ params["kernel"] + params["bias"] > 0) == (y > 0.5)).mean()
        assert agreement > 0.85 and record["labelled"] == (50 if n_unlabelled else 100)
    chosen, rest = few_shot.choose_shots(y, 50, 20, seed=1)
    assert y[chosen[:50]].all() and not y[chosen[50:]].any() and len(chosen) + len(rest) == 3000
    np.testing.assert_array_equal(chosen, few_shot.choose_shots(y, 50, 20, seed=1)[0])
    for more, says in (
        (("sid", 5, 5), "did you mean 'side'"),
        (("side", 50, 0, 9000), "9000 unlabelled examples are wanted and there are 2950"),
    ):
        with pytest.raises(ValueError, match=says):
            few_shot.fit(table, table, *more)
    with pytest.raises(ValueError, match="5000 positive examples are wanted and there are"):
        few_shot.choose_shots(y, 5000)
    with pytest.raises(ValueError, match="needs both classes"):
        few_shot.few_shot_classifier(z[:5], np.ones(5))
    table = Workdir(workdir).code_table("train").read()
    assert len(table.z) == len(table.labels) == len(table.where)


def test_a_model_without_what_a_task_needs_says_how_to_get_it(model):
    bare = pdae_jax.Model(
        ARCH, {name: model.params[name] for name in ("dpm", "encoder", "gradient")}
    )
    with pytest.raises(ValueError, match="no 'latent'.*:latent variant"):
        bare.generate(2)
    with pytest.raises(ValueError, match="t must be from 0 to 999"):
        one_step.gap(bare, np.zeros((1, 8, 8, 1), np.uint8), [1000])
