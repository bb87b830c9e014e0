"""The model as a user holds it: encode, invert, decode, edit, classify, generate."""

import copy
import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, UInt32

from pdae_jax import distillation, latent, multistep, pdae, samplers
from pdae_jax.arrays import (
    Array,
    Codes,
    Images,
    Params,
    PerExample,
    Pictures,
    Rng,
    Rngs,
    Times,
    Visited,
)
from pdae_jax.formats.stack import Layout
from pdae_jax.images import SHAPE_REMEDY, Limits, checked, to_float
from pdae_jax.networks.architecture import Architecture, group_of
from pdae_jax.networks.groups import DTYPES, Networks
from pdae_jax.protocol import ONLY_DOWN, ONLY_UP, REVERSIBLE, Protocol, Sampling, protocol_of
from pdae_jax.reversible import Pair
from pdae_jax.runtime import programs, sharding
from pdae_jax.runtime.choices import nearest
from pdae_jax.runtime.programs import Program
from pdae_jax.schedule import Schedule
from pdae_jax.value_range import ValueRange
from pdae_jax.workdir import shipped
from pdae_jax.workdir.workdir import Workdir

LegacyKey = UInt32[jax.Array, "*key words"]  # of jax.random.PRNGKey
Moment = int | Int[Array, "#B"]
Seed = Rng | Rngs | LegacyKey | int | np.integer | None  # one for all, or one each; None is 0

OutImages = Float[np.ndarray, "*B H W C"]  # of one example, or of many
OutCodes = Float[np.ndarray, "*B d"]
KeyData = UInt32[jax.Array, "B words"]  # keys as numbers, which can be split and joined


@dataclasses.dataclass(frozen=True)
class ReversibleNoise:
    """What `Model.invert` infers by a reversible solver: the picture's x_T, exactly.

    Such a solver takes two states to go on from, so that both must be kept: x_T and `before`, the
    state at the time visited before it, [B, H, W, C] each; and how they came about, for
    `Model.decode` to run it backwards, by a model of the same batch_size. [i] and [i:j] choose
    examples.
    """

    x_T: OutImages
    before: OutImages
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.x_T)

    def __getitem__(self, some: int | slice | np.ndarray) -> "ReversibleNoise":
        return ReversibleNoise(self.x_T[some], self.before[some], self.sampling)


def load(
    workdir: Workdir | str | os.PathLike[str],
    *,
    precision: str = "float32",
    batch_size: int = 32,
    protocol: str | Protocol = "fast",
) -> "Model":
    """The model in `workdir`: a training run's, a converted checkpoint, or one that ships, "emoji".

    Averaged (EMA) parameters of the latest checkpoint of each group, without what is stale, of
    which it warns. precision: "float32" or "bfloat16" compute; batch_size: examples on the device
    at a time; protocol: of sampling, "fast", or the paper's, "paper". Compiled programs are kept
    between starts (`programs.keep_on_disk`). Raises ValueError where there is no model.
    """
    programs.keep_on_disk()
    if not isinstance(workdir, Workdir):
        workdir = Workdir(shipped.located(workdir))
    if stale := sorted(workdir.stale):
        variants = " and ".join(f":{name}" for name in stale)
        warnings.warn(
            f"stale, and not used: {' and '.join(stale)} in {workdir}, made of codes of other "
            f"networks than it has now; train again with {variants} after the config's name",
            stacklevel=2,
        )
    return Model(
        workdir.architecture,
        workdir.weights(),
        attributes=workdir.attributes,
        value_range=workdir.value_range,
        layout=trained_on[-1].layout if (trained_on := workdir.trained_on) else Layout(),
        precision=precision,
        batch_size=batch_size,
        protocol=protocol,
    )


Noise = OutImages | ReversibleNoise  # x_T


class Model:
    """A diffusion autoencoder: pictures to codes z and noise x_T, and back.

    **What x_T is.** A picture is kept in two parts: z, what is meaningful, and x_T, pure noise of
    the picture's own shape, which holds the stochastic detail that z does not. `decode(z)` starts
    from the mean of such noise, 0, and returns the one picture that z alone stands for;
    `decode(z, rng=...)` draws an x_T and returns *a* picture with this z: similar, not the same.
    `invert` infers the one x_T from which `decode(z, x_T)` returns *the* picture, nearly to the
    pixel. An x_T belongs to its image and z; to edit a picture, keep its x_T and change its z.

    **What it takes and returns.** NumPy arrays, or what becomes one: pictures [B, H, W, C], uint8
    or float in [-1, 1] (`value_range` tells another range, such as the model's own, in the units of
    its files; `pdae_jax.images.load` makes pictures fit), codes [B, d]; or one example, without B,
    for which one is returned. Any B, also 0: the device holds `batch_size` examples at a time.
    Pictures come back as float32 in [-1, 1], which `to_units` puts into the files' units.
    """

    def __init__(
        self,
        arch: Architecture,
        params: Params,
        *,
        attributes: Sequence[str] = (),
        value_range: ValueRange | None = None,
        layout: Layout = Layout(),  # noqa: B008 - frozen
        precision: str = "float32",
        batch_size: int = 32,
        protocol: str | Protocol = "fast",
    ) -> None:
        """params: {"dpm", "encoder", "gradient"} (or "dpm" alone: then z must be None).

        attributes: the names of the classifier's outputs, in order. value_range: of the values of
        the pictures that it was trained on; None where nothing tells. layout: how their files'
        arrays were meant. protocol: of sampling, by its
        name, then in at most T steps, or as it is.
        """
        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number above 0, got {batch_size!r}")
        self.arch, self.attributes = arch, tuple(attributes)
        self.value_range, self.layout = value_range, layout
        self.mesh = sharding.make_mesh(devices=jax.local_devices())
        self.net = Networks(arch, DTYPES[nearest(precision, DTYPES, "precision")])
        self.params = jax.device_put(self.net.frozen(params), sharding.replicated(self.mesh))
        self.schedule = self.net.schedule
        self.batch_size = batch_size
        self.protocol = protocol_of(protocol, arch.T)

    def sampling_by(self, protocol: str | Protocol | None = None, **ways: Any) -> "Model":
        """The same model with another protocol, by name or as it is, or with fields replaced.

        ways: as of `Protocol`, such as `decode=Sampling("ddim", "uniform", 100)`. What is compiled
        is shared.
        """
        other = copy.copy(self)
        whole = self.protocol if protocol is None else protocol_of(protocol, self.arch.T)
        other.protocol = dataclasses.replace(whole, **ways)
        return other

    # From pictures, and back.

    def encode(self, images: ArrayLike, value_range: ValueRange | Limits | None = None) -> OutCodes:
        """z = E(x_0)."""
        self.need("encoder")
        x_0, one = self._images(images, value_range)
        return self._batched(self._encode, x_0, one=one)

    def invert(
        self,
        images: ArrayLike,
        z: ArrayLike | None = None,
        steps: int | None = None,
        value_range: ValueRange | Limits | None = None,
        solver: str | None = None,
        *,
        bare: bool = False,
    ) -> OutImages | ReversibleNoise:
        """x_T of images: from the picture, up in t, to the noise it decodes from; about N(0, I).

        z: their codes, None to encode them. steps, solver: other than the protocol's; more steps
        are closer. "bdia" and "o-belm" infer it exactly, as a `ReversibleNoise`. bare: by the
        diffusion model alone, without z, as `decode` does with z = None.
        """
        x_0, one = self._images(images, value_range)
        if bare and z is not None:
            raise ValueError("bare infers x_T without z: leave z out")
        codes = None if bare else self._z_of(x_0, z)
        x_T = self._x_T_of(x_0, codes, self._how("invert", steps, solver))
        return x_T[0] if one else x_T

    def decode(
        self,
        z: ArrayLike | None,
        x_T: ArrayLike | ReversibleNoise | None = None,
        steps: int | None = None,
        rng: Seed = None,
        stop: float = 0.0,
        *,
        solver: str | None = None,
        temperature: float | None = None,
        drawn: bool | None = None,
    ) -> OutImages:
        """Pictures in [-1, 1] with codes z: Algorithm 3, or with solver="ddpm" Algorithm 2.

        z: None for the bare diffusion model (then x_T gives B). x_T: the noise to start from;
        `invert`'s for the exact picture, decoded without a threshold. Without one it is
        temperature times normal noise. At temperature 0, the fast protocol's where no rng is
        given, that is the one picture of z (of a deterministic solver); at 1, the paper's, or the
        fast one's with an rng, the picture keeps what z says and makes up the rest.
        rng: a key or a random seed, the i-th example's by (rng, i) alone; or a key for each
        example, as of `samplers.keys`. steps, solver: other than the protocol's; DDPM always takes
        all T. stop: the share of T, its small times, that go without z. drawn: whether x_T was
        drawn rather than inferred, and is decoded as what is drawn; None: where z is None.
        """
        codes, one = (None, False) if z is None else self._codes(z)
        start, before = None, None
        if x_T is None:
            how = self._how("stopped" if stop else "draw", steps, solver)
        else:
            n = None if codes is None else len(codes)
            drawn = codes is None if drawn is None else drawn
            start, before, how, one = self._given(x_T, n, steps, solver, drawn)
            if temperature is not None:
                raise ValueError(
                    f"temperature = {temperature} is of an x_T that is drawn, and one is given"
                )
        given = start if codes is None else codes
        if given is None:
            raise ValueError(
                "decode needs z or x_T; for n pictures of the bare diffusion model "
                "pass x_T = normal noise [n, H, W, C]"
            )
        stochastic = how.solver in ONLY_DOWN
        if how.solver == "ddpm" and stop:
            raise ValueError(f"stop = {stop} is of the other solvers; DDPM takes all times with z")
        rngs = self._rngs(rng, len(given))
        if start is None:
            if temperature is None:
                random = rng is not None or stochastic
                temperature = self.protocol.temperature or (1.0 if random else 0.0)
            start = self._x_T(rngs, temperature)
        keys = jax.random.key_data(rngs) if stochastic else None
        out = self._batched(
            self._decode,
            start,
            before,
            codes,
            keys,
            one=one,
            whole=before is not None,
            how=how,
            stop=float(stop),
        )
        return np.clip(out, -1.0, 1.0)

    def reconstruct(
        self,
        images: ArrayLike,
        steps: int | None = None,
        invert_steps: int | None = None,
        value_range: ValueRange | Limits | None = None,
    ) -> OutImages:
        """Pictures through z and their inferred x_T and back: nearly the same, in [-1, 1]."""
        x_0, one = self._images(images, value_range)
        z = self._z_of(x_0, None)
        out = self.decode(z, self._x_T_of(x_0, z, self._how("invert", invert_steps)), steps)
        return out[0] if one else out

    def to_units(self, x: ArrayLike) -> OutImages:
        """Pictures [B, H, W, C] in [-1, 1], or uint8, in the units of the files it was trained on.

        Raises ValueError where nothing tells the units, or each picture had its own range.
        """
        if self.value_range is None:
            raise ValueError(
                "this model was imported, and does not tell the units of its pictures: "
                "pdae_jax.data.ValueRange((low,), (high,)).to_units(x) takes yours"
            )
        return self.value_range.to_units(np.asarray(x))

    # What z means.

    def direction(self, attribute: str, keep: Sequence[str] = ()) -> Float[np.ndarray, " d"]:
        """The unit vector in normalised z along which an attribute grows fastest.

        keep: other attributes, which it must not move.
        """
        self.need("classifier")
        names, keep = self.attributes, (keep,) if isinstance(keep, str) else keep
        k, *fixed = (names.index(nearest(one, names, "attribute")) for one in (attribute, *keep))
        if k in fixed:
            raise ValueError(
                f"{attribute!r} is to change, and cannot be held still too: leave it out of keep"
            )
        found = np.asarray(latent.direction(self.params["classifier"], k, fixed))
        if not np.isfinite(found).all():
            raise ValueError(
                f"nothing of {attribute!r} is left to change where {', '.join(keep)} are held "
                f"still: their directions span its own"
            )
        return found

    def edit(
        self,
        images_or_z: ArrayLike,
        attribute: str | ArrayLike,
        strength: float,
        *,
        keep: Sequence[str] = (),
        steps: int | None = None,
        invert_steps: int | None = None,
        value_range: ValueRange | Limits | None = None,
    ) -> OutImages | OutCodes:
        """Pictures, or codes, with more of an attribute (with less, where strength is negative).

        Of codes z the codes moved by strength sqrt(d) along the direction in normalised z; of
        pictures those decoded from their own x_T and the moved z. attribute: its name, or a
        direction [d], of any length. strength: about -0.5 to 0.5. keep: attributes that
        must not move. steps, invert_steps: of decoding and of inferring x_T, other than the
        protocol's.
        """
        self.need("statistics")
        if np.ndim(strength) or not np.isfinite(strength):
            raise ValueError(f"strength must be one finite number, got {strength}")
        if isinstance(attribute, str):
            along = self.direction(attribute, keep)
        elif len(keep):
            raise ValueError("keep holds still what a named attribute would move: give its name")
        else:
            along = np.asarray(attribute, np.float32)
            if along.shape != (self.arch.z_size,):
                raise ValueError(
                    f"a direction must be [{self.arch.z_size}], got {list(along.shape)}"
                )
            length = np.linalg.norm(along)
            if not (np.isfinite(length) and length > 0):
                raise ValueError(f"a direction must have a length, got one of {length}")
            along = along / length
        if np.ndim(images_or_z) in (1, 2):
            if value_range is not None:
                raise ValueError(f"value_range = {value_range} is of pictures, and codes are given")
            codes, one = self._codes(images_or_z)
            moved = np.asarray(latent.edit(self.params["statistics"], codes, along, strength))
            return moved[0] if one else moved
        x_0, one = self._images(images_or_z, value_range)
        z = self._z_of(x_0, None)
        x_T = self._x_T_of(x_0, z, self._how("invert", invert_steps))
        out = self.decode(self.edit(z, along, strength), x_T, steps)
        return out[0] if one else out

    def classify(self, z: ArrayLike) -> Float[np.ndarray, "*B A"]:
        """p(y | z), from 0 to 1, of each of `attributes`."""
        return np.asarray(jax.nn.sigmoid(self.logits(z)))

    def logits(self, z: ArrayLike) -> Float[np.ndarray, "*B A"]:
        """The logit of each of `attributes`."""
        self.need("classifier")
        self.need("statistics")
        codes, one = self._codes(z)
        normalised = latent.normalise(self.params["statistics"], codes)
        found = np.asarray(latent.logits(self.params["classifier"], normalised))
        return found[0] if one else found

    def interpolate(
        self,
        z_1: ArrayLike,
        z_2: ArrayLike,
        x_T: ArrayLike | ReversibleNoise,
        weight: ArrayLike,
        steps: int | None = None,
    ) -> OutImages:
        """Decodes with G = lerp(G(z_1), G(z_2), weight) at every step: the paper's second kind.

        The first kind is `decode(lerp(z_1, z_2, weight), x_T)`. x_T: usually slerp of the two
        pictures' (`tasks.interpolation.slerp`). weight: a number from 0 (z_1) to 1 (z_2).
        """
        codes, one = self._codes(z_1)
        others, _ = self._codes(z_2, len(codes), "z_2")
        start, before, how, _ = self._given(x_T, len(codes), steps)
        if how.solver in ONLY_DOWN:
            raise ValueError(
                f"trajectories go by a deterministic solver, and the protocol decodes by "
                f"{how.solver!r}: take 'dpm++2m' or 'ddim'"
            )
        if np.ndim(weight) or not 0 <= float(np.asarray(weight)) <= 1:
            raise ValueError(f"weight must be one number from 0 to 1, got {weight}")
        weights = np.full((len(codes), 1, 1, 1), weight, np.float32)
        out = self._batched(
            self._trajectory,
            start,
            before,
            codes,
            others,
            weights,
            one=one,
            whole=before is not None,
            how=how,
        )
        return np.clip(out, -1, 1)

    # From nothing.

    def generate(
        self,
        n: int,
        steps: int | None = None,
        latent_steps: int | None = None,
        rng: Seed = None,
        stop: float = 0.3,
        clamp: bool = True,
        clip: bool = False,
        temperature: float | None = None,
    ) -> OutImages:
        """n pictures: z from the latent diffusion model, x_T at random, decoded.

        rng: a key or a random seed (None: 0), or n keys; the i-th picture depends on it and i
        alone. stop: the share of T, its small times, that go without z (the original: 0.3).
        temperature: of x_T (None: 1). latent_steps, clamp, clip: as for `generate_codes`.
        """
        rngs = self._rngs(rng, n)
        z = self.generate_codes(n, latent_steps, rngs, clamp, clip)
        return self.decode(z, steps=steps, rng=rngs, stop=stop, temperature=temperature)

    def generate_codes(
        self,
        n: int,
        steps: int | None = None,
        rng: Seed = None,
        clamp: bool = True,
        clip: bool = False,
    ) -> OutCodes:
        """n codes from the latent diffusion model; the i-th depends on rng and i alone.

        rng: as for `generate`. steps: of latent DDIM, other than the protocol's. clamp: cuts the
        first noise to [-1, 1], as the original does; clip: each step's z_0 too, as its sampler did
        by mistake.
        """
        self.need("latent")
        self.need("statistics")
        rngs = jax.random.key_data(self._rngs(rng, n))
        steps = self.protocol.latent_steps if steps is None else steps
        return self._batched(self._latent, rngs, steps=steps, clamp=clamp, clip=clip)

    # At one time t.

    @overload
    def predict(self, x_t: ArrayLike, t: Moment) -> OutImages: ...

    @overload
    def predict(self, x_t: ArrayLike, t: Moment, z: ArrayLike) -> tuple[OutImages, OutImages]: ...

    def predict(
        self, x_t: ArrayLike, t: Moment, z: ArrayLike | None = None
    ) -> OutImages | tuple[OutImages, OutImages]:
        """eps_theta(x_t, t); with z also G(x_t, z, t), by one pass down and two up.

        eps whatever the network itself predicts. t is 0 to T - 1.
        """
        x, one = self._like_images(x_t, "x_t")
        times = self._times(t, len(x))
        if z is None:
            return self._batched(self._predict_eps, x, times, one=one)
        self.need("gradient")
        codes, _ = self._codes(z, len(x))
        return self._batched(self._predict, x, times, codes, one=one)

    def posterior_gap(
        self,
        images: ArrayLike,
        t: int,
        z: ArrayLike | None = None,
        rng: Seed = None,
        uniform: bool = False,
        value_range: ValueRange | Limits | None = None,
    ) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
        """|mu~ - mu_theta|^2 of images noised to time t, without and with the shift.

        uniform: noises from [0, 1), as the original's measure did by mistake.
        """
        x_0, one = self._images(images, value_range)
        eps = self._noise(self._rngs(rng, len(x_0)), uniform)
        z, times = self._z_of(x_0, z), self._times(t, len(x_0))
        return self._batched(self._gap, x_0, times, eps, z, one=one)

    def denoise(
        self,
        images: ArrayLike,
        t: int,
        z: ArrayLike | None = None,
        rng: Seed = None,
        value_range: ValueRange | Limits | None = None,
    ) -> tuple[OutImages, OutImages, OutImages, OutImages]:
        """Noises images to time t and denoises them in one step.

        -> (x_t, x_0 without G, x_0 with G, G), the x_0 in [-1, 1].
        """
        x_0, one = self._images(images, value_range)
        eps = self._noise(self._rngs(rng, len(x_0)))
        z, times = self._z_of(x_0, z), self._times(t, len(x_0))
        return self._batched(self._denoise, x_0, times, eps, z, one=one)

    # The programs of the device: pure functions of (params, arrays), compiled once per setting.

    @functools.cached_property
    def _encode(self) -> Program:
        def encode(params: Params, x_0: Pictures) -> Codes:
            return self.net.encode(params, to_float(x_0))

        return Program(encode, "encode")

    @functools.cached_property
    def _predict(self) -> Program:
        def predict(params: Params, x_t: Images, t: Times, z: Codes) -> tuple[Images, Images]:
            out = self.net.predict(params, x_t, self.net.time(params, t), self.net.code(params, z))
            return out.eps, out.gradient

        return Program(predict, "predict")

    @functools.cached_property
    def _predict_eps(self) -> Program:
        def predict(params: Params, x_t: Images, t: Times) -> Images:
            return self.net.predict(params, x_t, self.net.time(params, t)).eps

        return Program(predict, "predict eps")

    def _path(self, how: Sampling) -> np.ndarray:
        """The times visited, ascending."""
        return samplers.spaced_times(self.schedule, how.steps, how.spacing)

    def _noise_fn(
        self, how: Sampling, params: Params, z: Codes | None, times: Visited, stop: float = 0.0
    ) -> samplers.NoiseFn:
        """Algorithm 3's noise by the network that `how` names, or the bare diffusion model's."""
        given = self.net, params, self.schedule
        if z is None or how.network == "pdae":
            return pdae.noise_fn(*given, z, times, stop=stop)
        return distillation.noise_fn(*given, z, times, stop=stop, up=how.network)

    @functools.cached_property
    def _decode(self) -> Program:
        def decode(
            params: Params,
            x: Images,
            before: Images | None,
            z: Codes | None,
            rngs: KeyData | None,
            how: Sampling,
            stop: float,
        ) -> Images:
            draw = None
            if rngs is not None:
                draw = samplers.draws(jax.random.wrap_key_data(rngs), self.arch.image_shape)
            if draw and how.solver == "ddpm":
                times = np.arange(self.arch.T)[::-1]
                posterior = pdae.ddpm_posterior(self.net, params, self.schedule, z, times)
                return samplers.ddpm(posterior, x, times, draw)
            times = self._path(how)[::-1]
            eps = self._noise_fn(how, params, z, times, stop)
            return _solved(how, eps, x, before, times, self.schedule, draw)

        return Program(decode, "decode")

    @functools.cached_property
    def _invert(self) -> Program:
        def invert(params: Params, x_0: Pictures, z: Codes | None, how: Sampling) -> Images | Pair:
            times = self._path(how)
            eps = self._noise_fn(how, params, z, times)
            return multistep.solve(how, eps, to_float(x_0), times, self.schedule)

        return Program(invert, "infer x_T")

    @functools.cached_property
    def _trajectory(self) -> Program:
        def run(
            params: Params,
            x: Images,
            before: Images | None,
            z_1: Codes,
            z_2: Codes,
            weight: Float[Array, "B 1 1 1"],
            how: Sampling,
        ) -> Images:
            path = self._path(how)[::-1]
            given = self.net, params, self.schedule, z_1, z_2, weight, path
            if how.network == "pdae":
                eps = pdae.trajectory_noise_fn(*given)
            else:
                eps = distillation.trajectory_noise_fn(*given, up=how.network)
            return _solved(how, eps, x, before, path, self.schedule)

        return Program(run, "interpolate")

    @functools.cached_property
    def _gap(self) -> Program:
        def run(
            params: Params, x_0: Pictures, t: Times, eps: Images, z: Codes
        ) -> tuple[PerExample, PerExample]:
            x_0 = to_float(x_0)
            return pdae.posterior_gap(self.net, params, self.schedule, x_0, t, eps, z)

        return Program(run, "posterior gap")

    @functools.cached_property
    def _denoise(self) -> Program:
        def run(
            params: Params, x_0: Pictures, t: Times, eps: Images, z: Codes
        ) -> tuple[Images, Images, Images, Images]:
            x_t = self.schedule.x_t(to_float(x_0), t, eps)
            return x_t, *pdae.one_step_x_0(self.net, params, self.schedule, x_t, t, z)

        return Program(run, "denoise")

    @functools.cached_property
    def _latent(self) -> Program:
        def run(params: Params, rngs: KeyData, steps: int, clamp: bool, clip: bool) -> Codes:
            return latent.sample(
                self.net,
                params,
                jax.random.wrap_key_data(rngs),
                latent.SCHEDULE(),
                steps,
                clamp=clamp,
                clip=clip,
            )

        return Program(run, "codes")

    @functools.cached_property
    def _draw(self) -> Program:
        def draw(params: Params, rngs: KeyData, uniform: bool) -> Images:
            rng = jax.random.wrap_key_data(rngs)
            noise = samplers.draws(rng, self.arch.image_shape)(self.arch.T)
            return jax.scipy.stats.norm.cdf(noise) if uniform else noise

        return Program(draw, "noise")

    def _x_T(self, rngs: Rngs, temperature: float) -> Any:
        """Noise to start from, temperature times normal."""
        number = np.ndim(temperature) == 0 and np.asarray(temperature).dtype.kind in "fiu"
        if not (number and np.isfinite(temperature) and temperature >= 0):
            raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
        return self._noise(rngs, size=float(temperature))

    def _noise(self, rngs: Rngs, uniform: bool = False, size: float = 1.0) -> "_Drawn":
        return _Drawn(self, np.asarray(jax.random.key_data(rngs)), uniform, size)

    # A user's arguments, checked.

    def _batched(
        self,
        program: Program,
        *arrays: Any,
        one: bool = False,
        whole: bool = False,
        **static: Any,
    ) -> Any:
        """The program over all examples; without their axis where there is `one`.

        whole: always in whole batches, as programs of other sizes round otherwise.
        """
        n = next(len(a) for a in arrays if a is not None)
        if n:
            out = sharding.in_batches(
                program,
                self.params,
                *arrays,
                mesh=self.mesh,
                batch_size=self.batch_size,
                words=program.words,
                whole=whole,
                **static,
            )
        else:
            empty = [
                a if a is None else jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype) for a in arrays
            ]
            shapes = program.shapes(self.params, *empty, **static)
            out = jax.tree.map(lambda a: np.zeros((0, *a.shape[1:]), a.dtype), shapes)
        return jax.tree.map(lambda a: a[0], out) if one else out

    def _images(self, images: Any, value_range: ValueRange | Limits | None) -> tuple[Any, bool]:
        """Pictures [B, H, W, C] as `images.checked` has them, and whether it is one alone."""
        x = images if hasattr(images, "dtype") and hasattr(images, "shape") else np.asarray(images)
        if x.shape == (0,):  # an empty list
            x = np.zeros((0, *self.arch.image_shape), np.uint8)
        x, one = self._many(x, "images", self.arch.image_shape)
        return checked(x, value_range, self.value_range), one

    def _z_of(self, x_0: Any, z: ArrayLike | None) -> Any:
        """The codes given for pictures, or theirs."""
        if z is not None:
            return self._codes(z, len(x_0))[0]
        self.need("encoder")
        return self._batched(self._encode, x_0)

    def _x_T_of(self, x_0: Any, z: Any, how: Sampling) -> Any:
        if how.solver in ONLY_DOWN:
            raise ValueError(
                f"solver = {how.solver!r} draws noise that cannot be inferred: invert with "
                f"'dpm++2m' or 'bdia'"
            )
        found = self._batched(self._invert, x_0, z, whole=how.solver in REVERSIBLE, how=how)
        if isinstance(found, Pair):
            return ReversibleNoise(np.asarray(found.x), np.asarray(found.before), how)
        return found

    def _how(self, way: str, steps: int | None = None, solver: str | None = None) -> Sampling:
        """The protocol's sampling for one way ("invert", "decode", "draw"), with a call's own."""
        how: Sampling = getattr(self.protocol, way)
        given = {"steps": steps, "solver": solver}
        how = dataclasses.replace(how, **{n: v for n, v in given.items() if v is not None})
        if how.solver in ONLY_UP and way != "invert":
            raise ValueError(
                f"solver = {how.solver!r} infers x_T, and does not decode: take 'ddim'"
            )
        self._path(how)  # refuses too many steps
        if how.network != "pdae" and "gradient" in self.params:  # else there is no z
            self.need(how.network)
        return how

    def _given(
        self,
        x_T: ArrayLike | ReversibleNoise,
        n: int | None,
        steps: int | None,
        solver: str | None = None,
        drawn: bool = False,
    ) -> tuple[Any, Any, Sampling, bool]:
        """x_T, the state before it or None, how to decode it, and whether it is one alone.

        drawn: it was not inferred from a picture, as where there is no z.
        """
        if not isinstance(x_T, ReversibleNoise):
            start, one = self._like_images(x_T, "x_T", n)
            return start, None, self._how("draw" if drawn else "decode", steps, solver), one
        for name, value in (("steps", steps), ("solver", solver)):
            if value is not None and value != getattr(x_T.sampling, name):
                raise ValueError(
                    f"{name} = {value} is not how this x_T was inferred, which was with "
                    f"{getattr(x_T.sampling, name)}: leave it out"
                )
        start, one = self._like_images(x_T.x_T, "x_T", n)
        before, _ = self._like_images(x_T.before, "x_T.before", len(start))
        return start, before, x_T.sampling, one

    def _like_images(self, images: ArrayLike, name: str, n: int | None = None) -> tuple[Any, bool]:
        x = np.asarray(images)
        if x.dtype == np.uint8:
            raise ValueError(f"{name} is noise of floats, and got uint8: pictures go to invert")
        x, one = self._many(_numbers(x, name), name, self.arch.image_shape, n)
        return _finite(x, name), one

    def _codes(self, z: ArrayLike, n: int | None = None, name: str = "z") -> tuple[Any, bool]:
        self.need("gradient")
        codes, one = self._many(_numbers(np.asarray(z), name), name, (self.arch.z_size,), n)
        return _finite(codes, name), one

    def _many(
        self, x: Any, name: str, shape: tuple[int, ...], n: int | None = None
    ) -> tuple[Any, bool]:
        """[B, *shape], and whether it was [*shape]; ValueError where it was neither."""
        one, got = x.shape == shape, list(x.shape)
        x = x[None] if one else x
        if x.shape[1:] != shape or x.ndim != 1 + len(shape) or n not in (None, len(x)):
            wanted = ", ".join(map(str, shape))
            raise ValueError(
                f"{name} must be [{'B' if n is None else n}, {wanted}], got {got}"
                + (f"; {SHAPE_REMEDY}" if name == "images" else "")
            )
        return x, one

    def _times(self, t: int | Int[Array, "..."], n: int) -> Int[np.ndarray, " {n}"]:
        given = np.asarray(t)
        if given.dtype.kind not in "iu" or given.shape not in ((), (1,), (n,)):
            raise ValueError(f"t must be a whole number, or [{n}] of them, got {t}")
        times = np.broadcast_to(given.astype(np.int32), (n,))
        if n and not (0 <= times.min() and times.max() < self.arch.T):
            raise ValueError(
                f"t must be from 0 to {self.arch.T - 1}, got {times.min()}..{times.max()}"
            )
        return times

    def _rngs(self, rng: Seed, n: int) -> Rngs:
        if not isinstance(n, int | np.integer) or n < 0:
            raise ValueError(f"n must be a whole number and not negative, got {n!r}")
        if rng is None or isinstance(rng, int | np.integer):
            return samplers.keys(rng or 0, range(n))
        key: Any = rng
        if getattr(key, "dtype", None) == np.uint32:
            key = jax.random.wrap_key_data(jnp.asarray(key))  # of jax.random.PRNGKey
        typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if not typed or key.shape not in ((), (n,)):
            raise ValueError(
                f"rng must be a random seed, a key of jax.random.key, or {n} keys, got "
                f"{getattr(key, 'shape', None) or type(rng).__name__}"
            )
        return key if key.shape == (n,) else samplers.keys(key, range(n))

    def need(self, group: str) -> None:
        """Raises ValueError, with what to do about it, where the model lacks a group."""
        if group not in self.params:
            variant = "latent" if group == "statistics" else group_of(group).objective
            raise ValueError(
                f"this model has no {group!r}, only {sorted(self.params)}: train it with the "
                f"config's :{variant} variant"
            )


def _solved(
    how: Sampling,
    noise_fn: samplers.NoiseFn,
    x: Images,
    before: Images | None,
    times: np.ndarray,
    schedule: Schedule,
    draw: samplers.Draw | None = None,
) -> Images:
    """The picture decoded from x_T, or from x_T and the state before it."""
    start = x if before is None else Pair(x, before)
    out = multistep.solve(how, noise_fn, start, times, schedule, draw)
    return out.x if isinstance(out, Pair) else out


class _Drawn:
    """Noise for each example, drawn as its slices are asked for."""

    dtype = np.dtype(np.float32)

    def __init__(self, model: Model, rngs: np.ndarray, uniform: bool, size: float):
        self._model, self._rngs, self._uniform, self._size = model, rngs, uniform, size
        self.shape = (len(rngs), *model.arch.image_shape)

    def __len__(self) -> int:
        return len(self._rngs)

    def __getitem__(self, some: slice) -> np.ndarray:
        model, rngs = self._model, self._rngs[some]
        if not self._size:
            return np.zeros((len(rngs), *self.shape[1:]), self.dtype)
        return self._size * model._batched(model._draw, rngs, uniform=self._uniform)


def _numbers(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype.kind not in "fiu" and x.dtype.name != "bfloat16":
        raise ValueError(f"{name} must be numbers, got {x.dtype}")
    return x.astype(np.float32)


def _finite(x: np.ndarray, name: str) -> np.ndarray:
    """The array; ValueError names the first example that has NaN or infinite numbers."""
    finite = np.isfinite(x).all(tuple(range(1, x.ndim)))
    if not finite.all():
        raise ValueError(f"{name}[{int(np.argmin(finite))}] has numbers that are NaN or infinite")
    return x
