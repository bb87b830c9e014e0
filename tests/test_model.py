"""The model as a user holds it, and the picture metrics."""

import dataclasses
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DIGITS_ARCH, assert_close, golden, nhwc, run_program
from PIL import Image

import pdae_jax
from pdae_jax import images as pictures
from pdae_jax import latent, multistep, pdae, protocol, samplers
from pdae_jax.data.dataset import Data
from pdae_jax.metrics import image
from pdae_jax.model import Model
from pdae_jax.networks.groups import Networks
from pdae_jax.protocol import PROTOCOLS, Sampling
from pdae_jax.runtime import programs, sharding
from pdae_jax.tasks.interpolation import interpolate, slerp
from pdae_jax.tasks.reconstruction import reconstruct, scores

ARCH = dataclasses.replace(DIGITS_ARCH, z_size=6, T=40)


@pytest.fixture(scope="module")
def model():
    params = jax.jit(lambda: Networks(ARCH).init(jax.random.key(0)))()
    params = jax.tree.map(
        lambda p: p + 0.05 * np.random.default_rng(p.size).standard_normal(p.shape), params
    )
    return Model(ARCH, params, batch_size=4)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)


def test_shapes_ranges_and_batches_of_any_size(model, images):
    """Six pictures in batches of four: the second, padded, gives what it would alone."""
    z = model.encode(images)
    assert z.shape == (6, 6) and z.dtype == jnp.float32
    np.testing.assert_allclose(z[4:], model.encode(images[4:]), atol=1e-5)
    out = model.decode(z, steps=3)
    assert out.shape == images.shape and float(jnp.abs(out).max()) <= 1
    np.testing.assert_allclose(out[:2], model.decode(z[:2], steps=3), atol=1e-4)
    eps, gradient = model.predict(out, 3, z)
    assert eps.shape == gradient.shape == images.shape


def test_uint8_and_floats_are_the_same_picture(model, images):
    np.testing.assert_allclose(model.encode(images), model.encode(images / 127.5 - 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"float in \[-1, 1\], got 0 to 25.*: \(0, 255\) for such"):
        model.encode(images.astype(np.float32))


def test_x_T_drawn_or_given(model, images):
    z = model.encode(images)
    same, other = model.decode(z, steps=3, rng=0), model.decode(z, steps=3, rng=1)
    np.testing.assert_array_equal(same, model.decode(z, steps=3, temperature=1.0))
    assert float(jnp.abs(same - other).max()) > 1e-3
    paper = model.sampling_by("paper")
    drawn = paper.decode(z)
    np.testing.assert_array_equal(drawn, paper.decode(z, rng=0))
    assert float(jnp.abs(drawn - paper.decode(z, rng=1)).max()) > 1e-3
    x_T = model.invert(images, steps=5)
    np.testing.assert_allclose(x_T, model.invert(images, z, steps=5), atol=1e-5)
    assert x_T.shape == images.shape


def test_decode_is_the_pure_functions(model, images):
    z, times = model.encode(images), samplers.ddim_times(40, 3)
    x_T = jax.random.normal(jax.random.key(5), images.shape)
    eps = pdae.noise_fn(model.net, model.params, model.schedule, z, times)
    expected = samplers.ddim(eps, x_T, times[::-1], model.schedule)
    paper = model.sampling_by(PROTOCOLS["paper"])
    assert_close(paper.decode(z, x_T, steps=3), jnp.clip(expected, -1, 1), 1e-4)

    times = samplers.spaced_times(model.schedule, 3, "log-snr")
    eps = pdae.noise_fn(model.net, model.params, model.schedule, z, times)
    expected = multistep.dpmpp_2m(eps, x_T, times[::-1], model.schedule)
    assert_close(model.decode(z, x_T, steps=3), jnp.clip(expected, -1, 1), 1e-4)


@pytest.mark.parametrize("solver", ["ddpm", "dpm++2m-sde"])
def test_what_is_drawn_is_drawn_by_example(model, images, solver):
    z = model.encode(images)
    out = model.decode(z, solver=solver, rng=7)
    np.testing.assert_allclose(out[:1], model.decode(z[:1], solver=solver, rng=7), atol=1e-3)
    assert np.abs(out - model.decode(z, solver=solver, rng=8)).max() > 1e-3


def test_temperature_is_the_size_of_what_is_drawn(model, images):
    """0, the default where no rng is given, is the one picture of z: x_T = 0."""
    z = model.encode(images)
    draw = model.protocol.draw
    cold = model.sampling_by(decode=draw).decode(z, np.zeros(images.shape, np.float32))
    np.testing.assert_allclose(model.decode(z), cold, atol=1e-5)
    np.testing.assert_array_equal(model.decode(z, rng=3, temperature=0.0), model.decode(z))
    half = 0.5 * np.asarray(model._noise(model._rngs(3, 6))[:])
    warm = model.sampling_by(decode=draw).decode(z, half)
    np.testing.assert_allclose(model.decode(z, rng=3, temperature=0.5), warm, atol=1e-4)
    lukewarm = model.sampling_by(temperature=0.5)  # a protocol's own holds with an rng too
    np.testing.assert_array_equal(lukewarm.decode(z, rng=0), lukewarm.decode(z))
    np.testing.assert_array_equal(lukewarm.decode(z), model.decode(z, rng=0, temperature=0.5))


def test_where_small_times_go_without_z_steps_are_uniform(model, images):
    z = model.encode(images)
    assert (model.protocol.stopped.solver, model.protocol.stopped.spacing) == ("ddim", "uniform")
    other = model.sampling_by(draw=model.protocol.stopped).decode(z, stop=1e-9)
    np.testing.assert_array_equal(model.decode(z, stop=1e-9), other)


def test_without_z_noise_is_drawn_and_clipped(model):
    """x_T of the bare diffusion model is no picture's: it goes the way of what is drawn."""
    x_T = np.asarray(jax.random.normal(jax.random.key(5), (2, 8, 8, 1)))
    other = model.sampling_by(decode=Sampling("ddim", "uniform", 3))
    np.testing.assert_array_equal(model.decode(None, x_T), other.decode(None, x_T))
    changed = model.sampling_by(draw=Sampling("ddim", "uniform", 3, "static"))
    assert np.abs(model.decode(None, x_T) - changed.decode(None, x_T)).max() > 1e-4


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"invert": Sampling("ddpm")}, "invert cannot go by solver = 'ddpm': take dpm"),
        ({"decode": Sampling("implicit")}, "decode cannot go by solver = 'implicit': take ddim"),
        ({"draw": Sampling("implicit")}, "draw cannot go by solver = 'implicit': take ddim"),
        ({"invert": Sampling("bdia")}, "what bdia infers is decoded in the same way: decode must"),
        ({"invert": Sampling("ddim", "uniform", 2, "none", "fewstep")}, "cannot go by network"),
        ({"temperature": "hot"}, "temperature must be a number of at least 0, got 'hot'"),
        ({"temperature": np.nan}, "temperature must be a number of at least 0, got nan"),
        ({"latent_steps": 0}, "latent_steps must be at least 1, got 0"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(model, wrong, message):
    with pytest.raises(ValueError, match=message):
        model.sampling_by(**wrong)


def test_a_protocol_is_every_setting_of_sampling(model, images):
    paper = PROTOCOLS["paper"]
    assert (paper.invert.steps, paper.decode.steps, paper.temperature) == (1000, 100, 1.0)
    for how in (paper.invert, paper.decode, paper.draw):
        assert (how.solver, how.spacing, how.threshold) == ("ddim", "uniform", "static")
    named = Model(ARCH, model.params, batch_size=4, protocol="paper")
    assert named.protocol == paper.at_most(ARCH.T) and named.protocol.invert.steps == ARCH.T
    z = model.encode(images)
    other = model.sampling_by(decode=Sampling("ddim", "quadratic", 5))
    assert np.abs(other.decode(z, images / 255.0) - model.decode(z, images / 255.0)).max() > 1e-4
    assert model.protocol == PROTOCOLS["fast"].at_most(ARCH.T)  # as before


@pytest.mark.parametrize("solver", protocol.SOLVERS)
def test_every_solver_infers_x_T_and_decodes_it(model, images, solver):
    z = model.encode(images)
    out = model.decode(z, model.invert(images, z, 12, solver=solver), 12, solver=solver)
    assert np.isfinite(out).all() and out.shape == images.shape


def test_reversible_noise_carries_both_states_and_returns_the_picture(model, images):
    """From the picture to the pair and back, exactly, and one example of it alone."""
    z = model.encode(images)
    noise = model.invert(images, z, steps=5, solver="bdia")
    assert noise.x_T.shape == noise.before.shape == images.shape and len(noise) == 6
    out = model.decode(z, noise)
    assert ((out - (images / 127.5 - 1)) ** 2).mean() / 4 < 1e-9
    np.testing.assert_array_equal(model.decode(z[2], noise[2]), out[2])  # by the same program
    mixed = slerp(noise[:2], noise[2:4], 0.5)
    assert np.isfinite(model.decode(z[:2], mixed)).all()
    assert np.isfinite(model.interpolate(z[:2], z[2:4], mixed, 0.5)).all()
    with pytest.raises(ValueError, match="steps = 7 is not how this x_T was inferred, .* with 5"):
        model.decode(z, noise, steps=7)


def test_bad_arguments_are_one_line(model, images, shapes_unchecked):
    z, z_noise = model.encode(images), images / 255.0
    for call, message in [
        (lambda: model.encode(images[0, :4]), r"images must be \[B, 8, 8, 1\], got \[4, 8, 1\]; "),
        (lambda: model.decode(z[:, :3]), r"z must be \[B, 6\], got \[6, 3\]"),
        (lambda: model.invert(images, z[:3]), r"z must be \[6, 6\], got \[3, 6\]"),
        (lambda: model.decode(z, images[:2] / 255), r"x_T must be \[6, 8, 8, 1\], got \[2, 8"),
        (lambda: model.generate(-1), "n must be a whole number and not negative, got -1"),
        (lambda: Model(ARCH, model.params, batch_size=0), "batch_size must be a whole number"),
        (lambda: model.decode(z, steps=0), "steps must be a whole number of at least 1, got 0"),
        (lambda: model.decode(z, solver="ddmp"), "did you mean 'ddpm'"),
        (lambda: model.decode(z, solver="implicit"), "'implicit' infers x_T, and does not decode"),
        (lambda: model.invert(images, solver="ddpm"), "'ddpm' draws noise that cannot be inferred"),
        (lambda: model.invert(images, steps=41), "steps must be from 1 to T = 40, got 41"),
        (lambda: model.decode(z, temperature="hot"), "temperature must be a number of at least 0"),
        (
            lambda: model.sampling_by(decode=Sampling("ddpm")).interpolate(z, z, z_noise, 0.5),
            "trajectories go by a deterministic solver, and the protocol decodes by 'ddpm'",
        ),
        (lambda: model.sampling_by("papr"), "did you mean 'paper'"),
        (lambda: model.decode(z, temperature=-1.0), "temperature must be a number of at least 0"),
        (
            lambda: model.decode(z, images / 255, temperature=0.0),
            "temperature = 0.0 is of an x_T that",
        ),
        (lambda: Model(ARCH, {}, protocol="papers"), "did you mean 'paper'"),
        (lambda: model.predict(images / 255, 40, z), "t must be from 0 to 39"),
        (lambda: model.decode(None), "decode needs z or x_T"),
        (lambda: Model(ARCH, {"dpm": model.params["dpm"]}).encode(images), "no 'encoder'"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_tasks(model, images):
    parts = reconstruct(model, images, draws=2)
    assert parts.from_z.shape == (2, *images.shape) and parts.inferred.shape == images.shape
    assert set(scores(images, parts.inferred)) == {"ssim", "mse", "psnr"}
    codes, trajectories = interpolate(model, images[:2], images[2:4], (0.0, 0.5, 1.0))
    assert codes.shape == trajectories.shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(codes[:, 0], trajectories[:, 0], atol=1e-3)  # they meet at the ends


def test_in_bfloat16_kernels_are_kept_so_and_no_number_changes(model, images):
    low = Model(ARCH, model.params, precision="bfloat16")
    for leaf in jax.tree.leaves(low.params):
        assert leaf.dtype == jnp.bfloat16 or leaf.ndim == 1
    plain = Model(ARCH, low.params)  # which nothing can unround
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(plain.params))
    assert plain.decode(low.encode(images), steps=1).dtype == np.float32
    z = low.encode(images)
    x_0 = images.astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(z, jax.jit(low.net.encode)(model.params, x_0))
    with_means = Model(
        ARCH, model.params | {"classifier": {"kernel": jnp.zeros((6, 2))}}, precision="bfloat16"
    )
    assert with_means.params["classifier"]["kernel"].dtype == jnp.float32


def test_pictures():
    x = np.array([-1.0, 0.0, 1.0, 2.0], np.float32)
    np.testing.assert_array_equal(pictures.to_uint8(x), [0, 128, 255, 255])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(pictures.to_uint8(every / 127.5 - 1), every)
    rows = [np.zeros((3, 4, 4, 1), np.uint8), np.zeros((2, 4, 4, 1), np.uint8)]
    assert pictures.grid(rows).shape == (10, 16, 1)


def test_image_metrics_golden():
    data = golden("image_metrics")
    a, b = nhwc(data["a"]), nhwc(data["b"])
    np.testing.assert_allclose(image.ssim(a, b), data["ssim"], rtol=1e-5)
    np.testing.assert_allclose(image.mse(a, b), data["mse"], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(image.psnr(np.array([1e-2, 1e-3])), [20, 30])


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_legacy_key_is_the_typed_one(model, n):
    """However many examples there are: two have as many as the key has words."""
    z = jnp.ones((n, 6))
    typed = model.decode(z, steps=2, rng=jax.random.key(5))
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=jax.random.PRNGKey(5)), typed)
    each = samplers.keys(5, range(n))
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=each), typed)
    np.testing.assert_array_equal(model.decode(z, steps=2, rng=jax.random.key_data(each)), typed)


# One or many, of any range.


def test_one_example_gives_one_and_none_give_none(model, images):
    z = model.encode(images)
    one = model.encode(images[0])
    assert one.shape == (6,)
    np.testing.assert_allclose(one, z[0], atol=1e-5)
    assert model.decode(one, steps=2).shape == (8, 8, 1)
    assert model.invert(images[0], steps=2).shape == (8, 8, 1)
    assert model.reconstruct(images[0], 2, 2).shape == (8, 8, 1)
    assert model.predict(model.decode(one, steps=2), 3, one)[1].shape == (8, 8, 1)
    x_T = model.invert(images[0], steps=2)
    np.testing.assert_allclose(
        model.decode(one, x_T, steps=2), model.decode(one[None], x_T[None], steps=2)[0], atol=1e-5
    )
    none = model.encode(images[:0])
    assert none.shape == (0, 6) and none.dtype == np.float32
    assert model.decode(none, steps=2).shape == (0, 8, 8, 1)
    assert model.invert(images[:0], steps=2).shape == (0, 8, 8, 1)
    assert [a.shape for a in model.denoise(images[:0], 3)] == [(0, 8, 8, 1)] * 4


def test_a_range_is_taken_or_asked_for(model, images):
    """Floats that are never negative are warned of, other types refused, a range settles both."""
    z = model.encode(images)
    with pytest.warns(UserWarning, match=r"taken for \[-1, 1\].*\(0, 1\).*\(-1, 1\)"):
        wrong = model.encode(images / 255.0)
    assert np.abs(wrong - z).max() > 1e-2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(model.encode(images / 255.0, (0, 1)), z, atol=1e-5)
        np.testing.assert_allclose(model.encode(images / 255.0, (-1, 1)), wrong, atol=1e-5)
        wide = images.astype(np.uint16) * 257
        np.testing.assert_allclose(model.encode(wide, (0, 65535)), z, atol=1e-5)
        np.testing.assert_array_equal(  # a power of two: the same pixels to the last bit
            model.reconstruct(images.astype(np.uint16) * 256, 2, 2, (0, 65280)),
            model.reconstruct(images.astype(np.float32), 2, 2, (0, 255)),
        )
    for given, message in [
        (images.astype(np.uint16), r"images of uint16 .* pass value_range, such as \(0, 65535\)"),
        (images.astype(np.int64), "images of int64 do not tell"),
        (images.astype(str), "images must be numbers, got .*images.load reads files"),
        (images / 100.0 - 1, r"got -1 to 1\.5\d; pass value_range=\(black, white\)$"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.encode(given)
    with pytest.raises(ValueError, match=r"value_range must be \(black, white\)"):
        model.encode(images, (1, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_its_number(model, images, value):
    broken = np.zeros((300, 8, 8, 1), np.float32) - 0.5
    broken[270, 3, 3, 0] = value
    for call in (model.encode, model.invert, model.reconstruct):
        with pytest.raises(ValueError, match=r"images\[270\] has values that are NaN or infinite"):
            call(broken)


def test_the_device_holds_batch_size_examples(model, monkeypatch):
    """A million pictures are given: what goes to the device is a few at a time."""
    placed, put = [], jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda x, *more: (placed.append(jax.tree.leaves(x)), put(x, *more))[1]
    )
    many = np.broadcast_to(np.zeros((1, 8, 8, 1), np.uint8), (10**6, 8, 8, 1))  # 64 bytes

    class Enough(Exception):
        pass

    class Three(programs.Program):
        def __call__(self, *arrays, **static):
            if len(placed) > 3:
                raise Enough
            return super().__call__(*arrays, **static)

    few = Three(model._encode.function, "encode")
    monkeypatch.setitem(model.__dict__, "_encode", few)
    with pytest.raises(Enough):
        model.encode(many)
    assert {leaf.shape for leaves in placed for leaf in leaves} == {(4, 8, 8, 1)}
    assert {leaf.dtype for leaves in placed for leaf in leaves} == {np.dtype("uint8")}


def test_few_sizes_are_compiled(images):
    params = jax.jit(lambda: Networks(ARCH).init(jax.random.key(0)))()
    model, compiled = Model(ARCH, params, batch_size=32), []
    for n in range(1, 70):
        model.encode(np.zeros((n, 8, 8, 1), np.uint8))
    compiled = [key[1][-1][0][0] for key in model._encode._compiled]
    assert sorted(compiled) == [1, 8, 32]
    for n in range(1, 200):
        size = sharding.chunk_size(n, 32)
        computed = -(-n // size) * size
        assert n <= computed < n + size and (computed < 2 * n or n < 5)
    assert sharding.chunk_size(3, 32, devices=16) == 16 and sharding.chunk_size(9, 5) == 5


def test_what_compiles_long_is_said(monkeypatch, capfd):
    monkeypatch.setattr(programs, "PATIENCE", 0.01)

    def slow(x, k):
        time.sleep(0.1)  # while it is traced, as a compilation takes its time
        return x * k

    program = programs.Program(slow, "a slow one")
    assert program(jnp.ones(2), k=3).tolist() == [3, 3] and program(jnp.ones(2), k=3).sum() == 6
    said = capfd.readouterr().err.splitlines()
    assert said == ["compiling a slow one ...", "compiled a slow one in 0 s"]


def test_the_compiler_is_given_the_devices_options(monkeypatch):
    monkeypatch.setattr(programs, "OPTIONS", {"cpu": {"xla_no_such_option": 1}})
    with pytest.raises(Exception, match="xla_no_such_option"):
        programs.Program(jnp.sin, "a sine")(jnp.ones(2))


def test_programs_are_kept_on_disk_by_default(workdir):
    done = run_program("cached_load", workdir, JAX_COMPILATION_CACHE_DIR="", HOME=str(workdir))
    assert done.stdout.strip() == str(workdir / ".cache/pdae_jax/xla")


# The handle, over a trained model.


@pytest.fixture(scope="module")
def trained(workdir):
    return pdae_jax.load(workdir)


@pytest.fixture(scope="module")
def digits():
    source = Data("digits").open("test")
    return np.stack([source.image(i) for i in range(3)])


def test_an_edit_is_the_papers_from_the_pictures_own_x_T(trained, digits):
    z, statistics = trained.encode(digits), trained.params["statistics"]
    direction = trained.direction("3")
    np.testing.assert_allclose(direction, latent.direction(trained.params["classifier"], 3))
    moved = trained.edit(z, "3", 0.4)
    np.testing.assert_allclose(moved, latent.edit(statistics, z, direction, 0.4), atol=1e-6)
    np.testing.assert_allclose(trained.edit(z, direction, 0.4), moved, atol=1e-6)
    np.testing.assert_allclose(trained.edit(z[0], "3", 0.4), moved[0], atol=1e-6)
    assert (trained.logits(moved)[:, 3] > trained.logits(z)[:, 3]).all()
    x_T = trained.invert(digits, z, steps=4)
    edited = trained.edit(digits, "3", 0.4, steps=4, invert_steps=4)
    np.testing.assert_allclose(edited, trained.decode(moved, x_T, steps=4), atol=1e-5)
    np.testing.assert_allclose(
        trained.edit(digits, "3", 0.0, steps=4, invert_steps=4),
        trained.reconstruct(digits, 4, 4),
        atol=1e-5,
    )
    still = trained.edit(z, "3", 0.4, keep=["5", "8"])
    change = trained.logits(still) - trained.logits(z)
    assert np.abs(change[:, [5, 8]]).max() < 1e-4 < np.abs(change[:, 3]).min()


def test_classes_are_named_probabilities(trained, digits):
    assert trained.attributes == tuple("0123456789")
    assert trained.generate(0, steps=2, latent_steps=2).shape == (0, 8, 8, 1)
    p = trained.classify(trained.encode(digits))
    assert p.shape == (3, 10) and 0 < p.min() and p.max() < 1
    np.testing.assert_allclose(p[0], trained.classify(trained.encode(digits[0])), atol=1e-6)
    logits = trained.logits(trained.encode(digits))
    np.testing.assert_allclose(np.log(p / (1 - p)), logits, atol=1e-4)


def test_names_and_what_is_held_still_are_checked(trained, digits):
    for call, message in [
        (lambda: trained.edit(digits, np.ones(3), 0.1), r"a direction must be \[8\], got \[3\]"),
        (lambda: trained.direction("three"), r"no attribute 'three'; there is 0, 1, 2"),
        (lambda: trained.direction("3", ["3"]), "'3' is to change, and cannot be held still"),
        (lambda: trained.edit(digits, "3", 1.0, keep=["30"]), "no attribute '30'; did you mean"),
        (
            lambda: trained.edit(digits, np.ones(8), 1.0, keep=["3"]),
            "keep holds still what a",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_pictures_of_any_kind_become_the_networks(trained, tmp_path):
    rng = np.random.default_rng(0)
    big = rng.integers(0, 256, (40, 30, 3), np.uint8)
    files = [tmp_path / name for name in ("a.png", "b.jpg")]
    for file in files:
        Image.fromarray(big).save(file)
    same = pictures.load(Image.fromarray(big), trained)
    assert same.shape == (1, 8, 8, 1) and same.dtype == np.uint8
    for given, n in [
        (files[0], 1), (str(files[0]), 1), (tmp_path, 2), (str(tmp_path / "*.png"), 1),
        (files, 2), (big, 1), ([big, Image.fromarray(big), files[0]], 3), ([], 0),
        (np.stack([big, big]), 2), (big[..., 0], 1), (Image.fromarray(big).convert("LA"), 1),
    ]:  # fmt: skip
        found = pictures.load(given, trained)
        assert found.shape == (n, 8, 8, 1) and found.dtype == np.uint8
        assert trained.encode(found).shape == (n, 8)
    for given in (files[0], big, [big]):
        np.testing.assert_array_equal(pictures.load(given, trained), same)
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="c.png: cannot identify"):
        pictures.load(tmp_path / "c.png", trained)
    with pytest.raises(ValueError, match=r"picture 1: the picture has 5 channel\(s\) and 1 are"):
        pictures.load([big, np.zeros((8, 8, 5), np.uint8)], trained)
    with pytest.raises(ValueError, match="no such"):
        pictures.load(tmp_path / "missing.png", trained)


def test_nonsense_is_refused_by_its_name(trained, digits, shapes_unchecked):
    """NaN, the wrong kind, options that would be ignored: one line each."""
    z = trained.encode(digits)
    nan, x_T = np.full_like(z, np.nan), np.zeros(digits.shape, np.float32)
    pictures_of_ints = digits.astype(np.int64)
    for call, message in [
        (lambda: trained.decode(nan), r"z\[0\] has numbers that are NaN"),
        (lambda: trained.classify(nan), r"z\[0\] has numbers that are NaN"),
        (lambda: trained.edit(nan, "3", 0.1), r"z\[0\] has numbers that are NaN"),
        (lambda: trained.decode(z, x_T * np.nan), r"x_T\[0\] has numbers that are NaN"),
        (lambda: trained.decode(z, digits), "x_T is noise of floats, and got uint8"),
        (lambda: trained.decode(z, x_T[:1]), r"x_T must be \[3, 8, 8, 1\], got \[1, 8, 8, 1\]"),
        (lambda: trained.decode(z, solver="ddpm", stop=0.3), "stop = 0.3 is of the other solvers"),
        (lambda: trained.decode(z, rng=1.5), "rng must be a random seed.*got float"),
        (lambda: trained.decode(z, rng=samplers.keys(0, range(2))), r"or 3 keys, got \(2,\)"),
        (lambda: trained.edit(z, "3", np.nan), "strength must be one finite number, got nan"),
        (lambda: trained.edit(z, "3", [0.1, 0.2]), "strength must be one finite number"),
        (lambda: trained.edit(z, np.zeros(8), 0.1), "a direction must have a length"),
        (lambda: trained.edit(z, "3", 0.1, value_range=(0, 1)), "is of pictures, and codes are"),
        (lambda: trained.interpolate(z, z, x_T, 2.0), "weight must be one number from 0 to 1"),
        (lambda: trained.predict(x_T, 3.7, z), "t must be a whole number"),
        (lambda: trained.generate(2.5), "n must be a whole number"),
        (lambda: trained.encode(digits, (0, np.inf)), r"value_range must be \(black, white\)"),
        (lambda: trained.encode(digits, "01"), r"value_range must be \(black, white\)"),
        (lambda: pictures.load(pictures_of_ints[0], trained), "int64 do not tell.*value_range"),
        (lambda: pictures.load(5, trained), "given as paths, PIL images or arrays, got int"),
        (lambda: pictures.load(b"x", trained), "given as paths, PIL images or arrays, got bytes"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    np.testing.assert_allclose(
        trained.edit(z, 7 * trained.direction("3"), 0.1), trained.edit(z, "3", 0.1), atol=1e-5
    )
    np.testing.assert_array_equal(trained.direction("3", "8"), trained.direction("3", ["8"]))
    assert trained.encode([]).shape == (0, 8)
    np.testing.assert_allclose(
        pictures.load(pictures_of_ints[0], trained, value_range=(0, 255)),
        pictures.to_float(digits[:1]),
        atol=1e-6,
    )


def test_noise_too_is_drawn_batch_size_at_a_time(trained, digits):
    """However many codes there are: the same noise, by programs of few sizes."""
    model = Model(trained.arch, trained.params, batch_size=4)
    z = np.repeat(trained.encode(digits), 5, 0)
    model = model.sampling_by(decode=model.protocol.draw)
    out = model.decode(z, steps=2, rng=0)
    np.testing.assert_allclose(out[:7], model.decode(z[:7], steps=2, rng=0), atol=1e-5)
    noise = samplers.draws(samplers.keys(0, range(15)), (8, 8, 1))(model.arch.T)
    np.testing.assert_allclose(out, model.decode(z, noise, steps=2), atol=1e-5)
    assert {key[1][-1][0][0] for key in model._draw._compiled} <= {1, 4}
