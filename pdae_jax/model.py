"""The model as a user holds it: load, encode, invert, decode, predict."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int, UInt32

from pdae_jax import latent, pdae, samplers
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
from pdae_jax.images import to_float
from pdae_jax.networks.architecture import Architecture, group_of
from pdae_jax.networks.groups import DTYPES, Networks
from pdae_jax.runtime import sharding
from pdae_jax.runtime.choices import nearest
from pdae_jax.schedule import SCHEDULES
from pdae_jax.workdir.workdir import Workdir

METHODS = ("ddim", "ddpm")
LegacyKey = UInt32[jax.Array, "*B words"]  # of jax.random.PRNGKey
Seed = Rng | Rngs | LegacyKey | int | np.integer | None  # one for all, or one each; None is 0

JaxImages = Float[jax.Array, "B H W C"]  # returned; NumPy's are taken as well
JaxCodes = Float[jax.Array, "B d"]
KeyData = UInt32[jax.Array, "B words"]  # keys as numbers, which can be split and joined


def load(
    workdir: Workdir | str | os.PathLike[str],
    *,
    precision: str = "float32",
    batch_size: int = 32,
) -> "Model":
    """The model in `workdir`: a training run's, or a converted checkpoint.

    Averaged (EMA) parameters of the latest checkpoint of each group. precision: "float32" or
    "bfloat16" compute; batch_size: examples computed at a time. Raises ValueError where there is
    no model.
    """
    if not isinstance(workdir, Workdir):
        workdir = Workdir(workdir)
    if stale := sorted(workdir.stale):
        warnings.warn(
            f"{' and '.join(stale)} in {workdir} is stale, as the networks were trained further: "
            f"it is not used; train it again with the config's "
            f"{' and '.join(f':{name}' for name in stale)} variant",
            stacklevel=2,
        )
    return Model(
        workdir.architecture, workdir.weights(), precision=precision, batch_size=batch_size
    )


class Model:
    """A diffusion autoencoder: pictures to codes z and noise x_T, and back.

    **What x_T is.** A picture is kept in two parts: z, what is meaningful, and x_T, pure noise of
    the picture's own shape, which holds the stochastic detail that z does not. `decode(z)` draws
    an x_T (another for another rng) and returns *a* picture with this z: similar, not the same.
    `invert` infers the one x_T from which `decode(z, x_T)` returns *the* picture, nearly to the
    pixel. An x_T belongs to its image and z; to edit a picture, keep its x_T and change its z.
    """

    def __init__(
        self,
        arch: Architecture,
        params: Params,
        *,
        precision: str = "float32",
        batch_size: int = 32,
    ) -> None:
        """params: {"dpm", "encoder", "gradient"} (or "dpm" alone: then z must be None)."""
        self.arch = arch
        self.mesh = sharding.make_mesh(devices=jax.local_devices())
        self.net = Networks(arch, DTYPES[nearest(precision, DTYPES, "precision")])
        self.params = jax.device_put(self.net.frozen(params), sharding.replicated(self.mesh))
        self.schedule = SCHEDULES[nearest(arch.schedule, SCHEDULES, "schedule")](arch.T)
        self.batch_size = batch_size

    def encode(self, images: Pictures) -> JaxCodes:
        """z = E(x_0). images: uint8, or float in [-1, 1]."""
        self.need("encoder")
        return self._batched(self._encode, self._images(images), words="encode")

    def invert(self, images: Pictures, z: Codes | None = None, steps: int = 100) -> JaxImages:
        """x_T of images: DDIM run backwards, from the picture to the noise it decodes from.

        images: as for `encode`; z: their codes, None to encode them; steps: more is closer (the
        paper infers with 1000). x_T is about N(0, I).
        """
        x_0 = self._images(images)
        times = samplers.ddim_times(self.arch.T, steps)
        z = self.encode(x_0) if z is None else self._codes(z, len(x_0))
        return self._batched(self._ddim, x_0, z, words="infer x_T", path=tuple(times.tolist()))

    def decode(
        self,
        z: Codes | None,
        x_T: Images | None = None,
        steps: int = 100,
        rng: Seed = None,
        method: str = "ddim",
        stop: float = 0.0,
    ) -> JaxImages:
        """Pictures in [-1, 1] with codes z: Algorithm 3 ("ddim"), or Algorithm 2 ("ddpm").

        z: None for the bare diffusion model (then x_T gives B). x_T: the noise to start from;
        None draws it, so that the picture keeps what z says and makes up the rest; pass
        `invert`'s for the exact picture. rng: a key or a random seed (None: 0), the
        i-th example's by (rng, i) alone; or a key for each example, as of `samplers.keys`.
        steps: of DDIM; DDPM always takes all T. stop: the share of the last DDIM steps that go
        without z.
        """
        nearest(method, METHODS, "method")
        given = x_T if z is None else z
        if given is None:
            raise ValueError(
                "decode needs z or x_T; for n pictures of the bare diffusion model "
                "pass x_T = normal noise [n, H, W, C]"
            )
        n = len(given)
        rngs = self._rngs(rng, n)
        x_T = self._noise(rngs) if x_T is None else self._like_images(x_T, "x_T", n)
        z = None if z is None else self._codes(z, n)
        if method == "ddpm":
            out = self._batched(self._ddpm, x_T, z, jax.random.key_data(rngs), words="decode")
        else:
            path = samplers.ddim_times(self.arch.T, steps)[::-1]
            out = self._batched(
                self._ddim, x_T, z, words="decode", path=tuple(path.tolist()), stop=stop
            )
        return jnp.clip(out, -1.0, 1.0)

    def interpolate(
        self, z_1: Codes, z_2: Codes, x_T: Images, weight: ArrayLike, steps: int = 100
    ) -> JaxImages:
        """Decodes with G = lerp(G(z_1), G(z_2), weight) at every step: the paper's second kind.

        The first kind is `decode(lerp(z_1, z_2, weight), x_T)`. x_T: usually slerp of the two
        pictures' (`samplers.slerp`). weight: a number from 0 (z_1) to 1 (z_2).
        """
        z_1, z_2 = self._codes(z_1, len(z_1)), self._codes(z_2, len(z_1))
        x_T = self._like_images(x_T, "x_T", len(z_1))
        path = tuple(samplers.ddim_times(self.arch.T, steps)[::-1].tolist())
        weight = jnp.full((len(z_1), 1, 1, 1), weight, jnp.float32)
        return jnp.clip(self._batched(self._trajectory, x_T, z_1, z_2, weight, path=path), -1, 1)

    def predict(
        self, x_t: Images, t: int | Int[Array, "#B"], z: Codes
    ) -> tuple[JaxImages, JaxImages]:
        """eps_theta(x_t, t) and G(x_t, z, t), by one pass down and two up; t is 0 to T - 1."""
        self.need("gradient")
        x_t = self._like_images(x_t, "x_t")
        return self._batched(self._predict, x_t, self._times(t, len(x_t)), self._codes(z, len(x_t)))

    def posterior_gap(
        self,
        images: Pictures,
        t: int,
        z: Codes | None = None,
        rng: Seed = None,
        uniform: bool = False,
    ) -> tuple[Float[jax.Array, " B"], Float[jax.Array, " B"]]:
        """|mu~ - mu_theta|^2 of images noised to time t, without and with the shift.

        uniform: noises from [0, 1), as the original's measure did by mistake.
        """
        x_0 = self._images(images)
        z = self.encode(x_0) if z is None else self._codes(z, len(x_0))
        eps = self._noise(self._rngs(rng, len(x_0)))
        eps = jax.scipy.stats.norm.cdf(eps) if uniform else eps
        return self._batched(self._gap, x_0, self._times(t, len(x_0)), eps, z)

    def denoise(
        self, images: Pictures, t: int, z: Codes | None = None, rng: Seed = None
    ) -> tuple[JaxImages, JaxImages, JaxImages, JaxImages]:
        """Noises images to time t and denoises them in one step.

        -> (x_t, x_0 without G, x_0 with G, G), the x_0 in [-1, 1].
        """
        x_0 = self._images(images)
        z = self.encode(x_0) if z is None else self._codes(z, len(x_0))
        eps = self._noise(self._rngs(rng, len(x_0)))
        return self._batched(self._denoise, x_0, self._times(t, len(x_0)), eps, z)

    def generate_codes(
        self,
        n: int,
        steps: int = 100,
        rng: Seed = None,
        clamp: bool = True,
        clip: bool = False,
    ) -> JaxCodes:
        """n codes from the latent diffusion model; the i-th depends on rng and i alone.

        rng: as for `decode`. steps: of latent DDIM. clamp: cuts the first noise to [-1, 1], as the
        original does; clip: each step's z_0 too, as its sampler did by mistake.
        """
        self.need("latent")
        self.need("statistics")
        rngs = jax.random.key_data(self._rngs(rng, n))
        return self._batched(self._latent, rngs, words="codes", steps=steps, clamp=clamp, clip=clip)

    # The programs of the device: pure functions of (params, arrays), compiled once per setting.

    @functools.cached_property
    def _encode(self) -> Callable[..., Any]:
        return jax.jit(self.net.encode)

    @functools.cached_property
    def _predict(self) -> Callable[..., Any]:
        def predict(params: Params, x_t: Images, t: Times, z: Codes) -> tuple[Images, Images]:
            out = self.net.predict(params, x_t, self.net.time(params, t), self.net.code(params, z))
            return out.eps, out.gradient

        return jax.jit(predict)

    @functools.cached_property
    def _ddim(self) -> Callable[..., Any]:
        def run(
            params: Params, x: Images, z: Codes | None, path: Visited, stop: float = 0.0
        ) -> Images:
            return pdae.decode(self.net, params, self.schedule, x, z, path, stop=stop)

        return jax.jit(run, static_argnames=("path", "stop"))

    @functools.cached_property
    def _trajectory(self) -> Callable[..., Any]:
        def run(
            params: Params,
            x: Images,
            z_1: Codes,
            z_2: Codes,
            weight: Float[Array, "B 1 1 1"],
            path: Visited,
        ) -> Images:
            eps = pdae.trajectory_noise_fn(self.net, params, self.schedule, z_1, z_2, weight, path)
            return samplers.ddim(eps, x, path, self.schedule)

        return jax.jit(run, static_argnames="path")

    @functools.cached_property
    def _ddpm(self) -> Callable[..., Any]:
        def run(params: Params, x: Images, z: Codes | None, rngs: KeyData) -> Images:
            path = np.arange(self.arch.T)[::-1]
            posterior = pdae.ddpm_posterior(self.net, params, self.schedule, z, path)
            draw = samplers.draws(jax.random.wrap_key_data(rngs), self.arch.image_shape)
            return samplers.ddpm(posterior, x, path, draw)

        return jax.jit(run)

    @functools.cached_property
    def _gap(self) -> Callable[..., Any]:
        def run(
            params: Params, x_0: Images, t: Times, eps: Images, z: Codes
        ) -> tuple[PerExample, PerExample]:
            return pdae.posterior_gap(self.net, params, self.schedule, x_0, t, eps, z)

        return jax.jit(run)

    @functools.cached_property
    def _denoise(self) -> Callable[..., Any]:
        def run(
            params: Params, x_0: Images, t: Times, eps: Images, z: Codes
        ) -> tuple[Images, Images, Images, Images]:
            x_t = self.schedule.x_t(x_0, t, eps)
            return x_t, *pdae.one_step_x_0(self.net, params, self.schedule, x_t, t, z)

        return jax.jit(run)

    @functools.cached_property
    def _latent(self) -> Callable[..., Any]:
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

        return jax.jit(run, static_argnames=("steps", "clamp", "clip"))

    @functools.cached_property
    def _noise(self) -> Callable[..., Any]:
        return jax.jit(lambda rngs: samplers.draws(rngs, self.arch.image_shape)(self.arch.T))

    def _batched(self, function: Callable[..., Any], *arrays: Array | None, **static: Any) -> Any:
        return sharding.in_batches(
            function, self.params, *arrays, mesh=self.mesh, batch_size=self.batch_size, **static
        )

    # Checks of a user's arguments.

    def _images(self, images: ArrayLike) -> JaxImages:
        x_0 = jnp.asarray(images)
        self._shape(x_0, "images", None)
        x_0 = to_float(x_0)
        if x_0.size and float(jnp.abs(x_0).max()) > 1.01:
            raise ValueError(
                f"images must be uint8 or float in [-1, 1], got floats up to "
                f"{float(jnp.abs(x_0).max()):.3g}; divide by 127.5, subtract 1"
            )
        return x_0

    def _like_images(self, images: ArrayLike, name: str, n: int | None = None) -> JaxImages:
        x = jnp.asarray(images, jnp.float32)
        self._shape(x, name, n)
        return x

    def _shape(self, x: jax.Array, name: str, n: int | None) -> None:
        if x.ndim != 4 or x.shape[1:] != self.arch.image_shape or n not in (None, len(x)):
            raise ValueError(
                f"{name} must be [{'B' if n is None else n}, "
                f"{', '.join(map(str, self.arch.image_shape))}], got "
                f"{list(x.shape)}"
            )

    def _times(self, t: int | Int[Array, "..."], n: int) -> Int[jax.Array, " {n}"]:
        times = np.broadcast_to(np.asarray(t, np.int32), (n,))
        if n and not (0 <= times.min() and times.max() < self.arch.T):
            raise ValueError(
                f"t must be from 0 to {self.arch.T - 1}, got {times.min()}..{times.max()}"
            )
        return jnp.asarray(times)

    def _codes(self, z: ArrayLike, n: int) -> Float[jax.Array, "{n} {self.arch.z_size}"]:
        self.need("gradient")
        codes = jnp.asarray(z, jnp.float32)
        if codes.shape != (n, self.arch.z_size):
            raise ValueError(f"z must be [{n}, {self.arch.z_size}], got {list(codes.shape)}")
        return codes

    def _rngs(self, rng: Seed, n: int) -> Rngs:
        if rng is None or isinstance(rng, int | np.integer):
            return samplers.keys(rng or 0, range(n))
        key: Any = rng
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.wrap_key_data(key)  # of jax.random.PRNGKey
        return key if key.shape == (n,) else samplers.keys(key, range(n))

    def need(self, group: str) -> None:
        """Raises ValueError, with what to do about it, where the model lacks a group."""
        if group not in self.params:
            variant = "latent" if group == "statistics" else group_of(group).objective
            raise ValueError(
                f"this model has no {group!r}, only {sorted(self.params)}: train it with the "
                f"config's :{variant} variant"
            )
