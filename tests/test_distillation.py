"""Students: what they begin from, what they are trained towards, and how they decode."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, assert_close
from test_pdae import randomised

import pdae_jax
from benchmarks import distill
from pdae_jax import distillation, pdae, samplers
from pdae_jax.data.dataset import Data
from pdae_jax.model import Model
from pdae_jax.networks.groups import STUDENTS, Networks
from pdae_jax.protocol import FEW, PROTOCOLS
from pdae_jax.schedule import linear
from pdae_jax.training.losses import Given
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings
from pdae_jax.training.state import TrainState
from pdae_jax.training.step import make_update
from pdae_jax.training.trainer import train
from pdae_jax.workdir.workdir import Workdir

SCHEDULE = linear()
ARCH = dataclasses.replace(DIGITS_ARCH, learned_variance=True)  # of which a student has no part
DIGITS = Data("digits", flip=False)
QUICK = Settings(
    steps=4, batch_size=16, pictures_every=0, health_every=0, ema=0.5, save_every=2, keep=10
)
DISTILLED = ("distill", "fewstep")


@pytest.fixture(scope="module")
def tiny():
    """Networks with a student of each kind, as training begins it, and a batch."""
    net = Networks(ARCH)
    params = randomised(jax.jit(lambda: net.init(jax.random.key(0)))(), jax.random.key(1))
    params |= {up: net.student(params) for up in STUDENTS}
    x_0 = jax.random.uniform(jax.random.key(2), (4, 8, 8, 1), minval=-1, maxval=1)
    eps = jax.random.normal(jax.random.key(3), x_0.shape)
    return net, params, x_0, jnp.array([0, 250, 600, 999]), eps


def without_z(params):
    """A student whose projections of z are zero."""
    zero = jax.tree.map(jnp.zeros_like, params["shifted"]["z_projection"])
    return params | {"shifted": params["shifted"] | {"z_projection": zero}}


def test_a_student_begins_as_eps_theta_under_gs_embedding_of_z(tiny):
    """Without the latter it is the bare model; its parameters are an estimator's."""
    net, params, x_0, t, eps = tiny
    z = net.encode(params, x_0)
    bare = jax.jit(lambda p: net.predict(p, x_0, net.time(p, t)).eps)(params)
    own = jax.jit(lambda p: distillation.student(net, p, x_0, t, z, "shifted"))
    assert_close(own(without_z(params)), bare, 1e-5)
    assert np.abs(own(params) - bare).max() > 1e-3
    fresh = jax.eval_shape(lambda: net.init(jax.random.key(0), STUDENTS))
    for up in STUDENTS:
        assert jax.tree.map(jnp.shape, params[up]) == jax.tree.map(lambda s: s.shape, fresh[up])
        np.testing.assert_array_equal(
            params[up]["z_projection"]["linear"]["kernel"],
            params["gradient"]["z_projection"]["linear"]["kernel"],
        )


def test_a_perfect_student_has_no_loss(tiny):
    """Where G is 0 and z is not looked at, eps_theta is what PDAE gives: the student begins so."""
    net, params, x_0, t, eps = tiny
    zero = jax.tree.map(jnp.zeros_like, params["gradient"])
    params = without_z(params) | {"gradient": zero}
    loss = jax.jit(lambda p: distillation.shifted_loss(net, p, SCHEDULE, x_0, t, eps))
    assert_close(1 + loss(params), np.ones(4), 1e-9)
    moved = params | {"shifted": jax.tree.map(lambda a: a + 0.01, params["shifted"])}
    assert loss(moved).min() > 1e-8


def test_the_velocity_of_the_end_has_no_loss(tiny, monkeypatch):
    """The student's v whose x_0 is where the teacher's DDIM ends."""
    net, params, x_0, t, eps = tiny
    z, x_t = net.encode(params, x_0), SCHEDULE.x_t(x_0, t, eps)
    x, n = x_t, distillation.TEACHER_STEPS
    predict = jax.jit(lambda x, t: net.predict(params, x, net.time(params, t), net.code(params, z)))
    for left in range(n, 0, -1):
        now, then = t * left // n, t * (left - 1) // n
        out = predict(x, now)
        score = SCHEDULE.score_shift[now].reshape(-1, 1, 1, 1).astype(np.float32)
        noise = out.eps - score * out.gradient
        x = samplers.ddim_step(lambda *_, noise=noise: noise, x, now, then, SCHEDULE)
    signal = np.sqrt(SCHEDULE.alpha_bar[t]).reshape(-1, 1, 1, 1)
    v = (signal * x_t - x) / np.sqrt(1 - signal**2)

    def loss(v):
        monkeypatch.setattr(Networks, "distilled", lambda *_: v)
        return distillation.endpoint_loss(net, params, SCHEDULE, x_0, t, eps)

    assert loss(v).max() < 1e-6
    # An error of v is one of x_0 by sqrt(1 - alpha_bar_t).
    assert_close(loss(v + 1), (1 - signal**2).ravel(), 2e-3)


@pytest.mark.parametrize("stop", [0.0, 0.3, 1.0])
def test_a_student_decodes_as_its_teacher_where_it_is_the_same(tiny, stop):
    """`distillation.noise_fn` in the place of `pdae.noise_fn`, with its share without z."""
    net, params, x_0, _, eps = tiny
    zero = jax.tree.map(jnp.zeros_like, params["gradient"])
    params = without_z(params) | {"gradient": zero}
    times = samplers.ddim_times(SCHEDULE.T, 5)[::-1]

    @jax.jit
    def decoded(params):
        z = net.encode(params, x_0)
        return [
            samplers.ddim(way(net, params, SCHEDULE, z, times, stop=stop), eps, times, SCHEDULE)
            for way in (pdae.noise_fn, distillation.noise_fn)
        ]

    assert_close(*decoded(params), 1e-5)


def test_the_last_share_goes_without_z(tiny):
    net, params, x_0, _, eps = tiny
    times = samplers.ddim_times(SCHEDULE.T, 4)[::-1]

    @jax.jit
    def far_from_bare(params):
        z = 100 * net.encode(params, x_0)
        bare = pdae.noise_fn(net, params, SCHEDULE, None, times)
        fn = distillation.noise_fn(net, params, SCHEDULE, z, times, stop=0.5)
        return jax.lax.map(lambda t: jnp.abs(fn(eps, t) - bare(eps, t)).max(), jnp.asarray(times))

    far = far_from_bare(params)
    assert min(far[:2]) > 1e-2 and max(far[2:]) < 1e-5


def test_the_velocity_tells_x_0_at_all_times(tiny):
    net, params, x_0, _, eps = tiny
    for t in (0, 500, 999):
        x_t = SCHEDULE.x_t(x_0, t, eps)
        v = np.sqrt(SCHEDULE.alpha_bar[t]) * eps - np.sqrt(1 - SCHEDULE.alpha_bar[t]) * x_0
        assert_close(distillation.noise_of_velocity(SCHEDULE, x_t, t, v), eps, 1e-4)


def test_few_times_are_those_that_few_steps_visit():
    visited = [samplers.ddim_times(1000, steps)[1:] for steps in FEW]
    assert set(distillation.few_times(1000)) == set(np.concatenate(visited))
    drawn = OBJECTIVES["fewstep"].draw(
        jax.random.key(0), {"image": np.zeros((256, 2, 2, 1), np.uint8)}, 1000
    )
    assert set(np.asarray(drawn["t"])) == set(distillation.few_times(1000))
    sizes = drawn["eps"].std((1, 2, 3))  # of half of them a temperature makes the noise smaller
    assert 0.3 < (sizes < 0.5).mean() + 0.2 < 0.7


@pytest.mark.parametrize("objective", DISTILLED)
def test_training_touches_the_student_alone_and_lowers_its_loss(tiny, objective):
    net, params, x_0, _, _ = tiny
    row, settings = OBJECTIVES[objective], Settings(learning_rate=2e-3)
    trained = row.init(net, params)
    assert set(trained) == set(row.trains)
    frozen = {group: params[group] for group in row.needs}
    drawn = row.draw(jax.random.key(0), {"image": jnp.tile(x_0, (4, 1, 1, 1))}, SCHEDULE.T)
    update = jax.jit(make_update(row, net, SCHEDULE, settings))
    state, losses = TrainState.create(trained, settings.optimizer()), []
    for _ in range(12):
        state, metrics = update(state, frozen, drawn, None)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    gradient = jax.grad(lambda p: row.loss(Given(net, SCHEDULE, p), drawn).sum())
    of_all = jax.jit(gradient)({**frozen, **trained})
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(of_all[row.trains[0]]["up"]["out"]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    for objective in ("dpm", "pdae", *DISTILLED):
        assert train(workdir, objective, arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    return workdir


@pytest.mark.parametrize("objective", DISTILLED)
def test_a_resumed_distillation_is_the_uninterrupted_one(trained, tmp_path, objective):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / objective / "4")
    assert train(tmp_path / "run", objective, arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    groups = OBJECTIVES[objective].trains
    ours, theirs = (Workdir(path).weights(groups) for path in (tmp_path / "run", trained))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_codes_do_not_depend_on_a_student_which_is_stale_after_its_teacher_changed(
    trained, tmp_path, capsys
):
    shutil.copytree(trained, tmp_path / "run")
    home = Workdir(tmp_path / "run")
    assert set(home.cache_key(DIGITS)["checkpoints"]) == {"dpm", "pdae"} and home.stale == ()
    longer = dataclasses.replace(QUICK, steps=5)
    assert train(home, "distill", arch=DIGITS_ARCH, data=DIGITS, settings=longer)
    assert home.stale == ()
    assert train(home, "pdae", arch=DIGITS_ARCH, data=DIGITS, settings=longer)
    assert "distill and fewstep will be stale" in capsys.readouterr().err
    assert set(home.stale) == set(DISTILLED)
    assert not set(STUDENTS) & home.weights().keys()
    assert train(home, "distill", arch=DIGITS_ARCH, data=DIGITS, settings=QUICK)
    assert "distill was trained over the networks of before" in capsys.readouterr().err
    assert home.stale == ("fewstep",) and home.latest_steps["distill"] == 4


def test_the_protocol_takes_a_student(trained):
    """Decoding, inference and interpolation by a student, in the place of both of PDAE's."""
    model = pdae_jax.load(trained)
    x_0 = np.asarray(jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), minval=-1, maxval=1))
    z, n = model.encode(x_0), 3
    distilled, few = (model.sampling_by(PROTOCOLS[name]) for name in ("distilled", "fewstep"))
    assert np.abs(distilled.decode(z, steps=n) - model.decode(z, steps=n)).max() > 1e-6
    x_T = distilled.invert(x_0, steps=n)
    assert np.abs(x_T - model.invert(x_0, steps=n)).max() > 1e-6
    halfway = distilled.interpolate(z[:1], z[1:], x_T[:1], 0.5, steps=n)
    assert np.isfinite(halfway).all()
    np.testing.assert_allclose(
        distilled.interpolate(z[:1], z[1:], x_T[:1], 0.0, steps=n),
        distilled.decode(z[:1], x_T[:1], steps=n),
        atol=1e-5,
    )
    for steps in FEW:
        assert few.decode(z, steps=steps).shape == x_0.shape
    np.testing.assert_array_equal(few.decode(z, x_T, steps=n), model.decode(z, x_T, steps=n))
    with pytest.raises(ValueError, match=r"'fewstep' was trained for.*1, 2, 4, got ddim.* and 5"):
        few.decode(z, steps=5)
    with pytest.raises(ValueError, match="'ddpm' shifts a mean.*'shifted' does not tell"):
        distilled.decode(z, solver="ddpm")
    bare = Model(model.arch, {g: model.params[g] for g in ("dpm", "encoder", "gradient")})
    with pytest.raises(ValueError, match="no 'shifted'.*train it with the config's :distill"):
        bare.sampling_by(PROTOCOLS["distilled"]).decode(z)


def test_the_curve_of_quality_and_time(trained, capsys):
    given = ["--steps", "1", "2", "--n", "4", "--batch", "4", "--rounds", "1", "--large-batch", "0"]
    distill.main([f"--workdir={trained}", *given])
    out = capsys.readouterr().out
    assert "ms a step by two ways up" in out
    for start in ("0", "drawn"):
        for network, steps in (("PDAE", (1, 2)), ("distilled", (1, 2)), ("few steps", FEW)):
            for n in steps:
                assert f"| {start} | {network} | {n} | " in out
