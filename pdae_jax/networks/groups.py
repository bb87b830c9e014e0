"""The networks of one model as pure functions of their parameters.

Parameters are one plain dict of groups: "dpm", "encoder", "gradient" and "latent", of the networks,
and "statistics" and "classifier", plain arrays. What is trained and what is frozen is a split of this
dict. Flax stays behind this file.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pdae_jax.networks.architecture import PRECISIONS, Architecture
from pdae_jax.networks.encoder import Encoder
from pdae_jax.networks.gradient_estimator import GradientEstimator
from pdae_jax.networks.latent_mlp import LatentMLP
from pdae_jax.networks.unet import UNet

Params = dict[str, dict]

NETWORKS = ("dpm", "encoder", "gradient", "latent")
DTYPES = dict(zip(PRECISIONS, (jnp.float32, jnp.bfloat16), strict=True))


class Time(NamedTuple):
    """t's share of both networks, [N, *] each: N = B in training, 1 in a sampler's step."""

    dpm: jax.Array
    gradient: jax.Array | None


class Prediction(NamedTuple):
    """What the networks say of x_t; arrays [B, H, W, C] in float32.

    v is the learned variance's interpolation, None where the model has none. gradient is G, None
    where no code was given; with several codes an example it is [n, B, H, W, C].
    """

    eps: jax.Array
    v: jax.Array | None
    gradient: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Networks:
    """eps_theta, G, E and the latent model of one architecture, computing in `dtype`.

    Parameters, outputs, norm statistics and softmax are float32 whatever `dtype` is. remat: a
    gradient keeps the input of each residual block and computes the rest of it again, which takes
    a third more time and a fraction of the memory; values are the same.
    """

    arch: Architecture
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @functools.cached_property
    def unet(self):
        return UNet(self.arch, self.dtype, self.remat)

    @functools.cached_property
    def estimator(self):
        return GradientEstimator(self.arch, self.dtype, self.remat)

    @functools.cached_property
    def encoder(self):
        return Encoder(self.arch, self.dtype)

    @functools.cached_property
    def latent(self):
        return LatentMLP(self.arch, self.dtype)

    def init(self, rng, groups=("dpm", "encoder", "gradient"), labels: int = 0) -> Params:
        """Fresh parameters of the named groups; a group's values do not depend on the others.

        labels: how many attributes the classifier has.
        """
        arch = self.arch
        x = jnp.zeros((1, *arch.image_shape))
        t, z = jnp.zeros((1,), jnp.int32), jnp.zeros((1, arch.z_size))

        def init_gradient(rng):
            dpm = self.unet.init(rng, x, t)
            embedding, projection = self.unet.apply(dpm, t, method="time")
            features = self.unet.apply(dpm, x, projection, method="features")
            return self.estimator.init(rng, features, embedding, z, method="everything")

        inits = {
            "dpm": lambda rng: self.unet.init(rng, x, t),
            "encoder": lambda rng: self.encoder.init(rng, x),
            "gradient": init_gradient,
            "latent": lambda rng: self.latent.init(rng, z, t),
        }
        rngs = dict(zip(inits, jax.random.split(rng, len(inits))))
        zeros = {
            "classifier": lambda: {
                "kernel": jnp.zeros((arch.z_size, labels)),
                "bias": jnp.zeros(labels),
            },
            "statistics": lambda: {"mean": jnp.zeros(arch.z_size), "std": jnp.ones(arch.z_size)},
        }
        return {
            group: zeros[group]() if group in zeros else inits[group](rngs[group])["params"]
            for group in groups
        }

    def frozen(self, params: Params) -> Params:
        """Parameters as they may be kept while nothing trains them: networks' kernels in `dtype`.

        The layers round a kernel to `dtype` wherever they use it, so that no value changes.
        """

        def kernels(tree):
            return jax.tree.map(lambda a: a.astype(self.dtype) if a.ndim > 1 else a, tree)

        return {
            group: kernels(tree) if group in NETWORKS else tree for group, tree in params.items()
        }

    def encode(self, params: Params, x_0):
        """z = E(x_0): [B, H, W, C] in [-1, 1] -> [B, z_size]."""
        return self.encoder.apply({"params": params["encoder"]}, x_0)

    def time(self, params: Params, t) -> Time:
        """All that depends on t alone, int [N]: for a sampler to compute once."""
        dpm = {"params": params["dpm"]}
        embedding, projection = self.unet.apply(dpm, t, method="time")
        gradient = None
        if "gradient" in params:
            gradient = self.estimator.apply(
                {"params": params["gradient"]}, embedding, method="time"
            )
        return Time(projection, gradient)

    def code(self, params: Params, z):
        """All that depends on z alone, [B, z_size] -> [B, *]: for a sampler to compute once."""
        return self.estimator.apply({"params": params["gradient"]}, z, method="code")

    def predict(
        self, params: Params, x_t, time: Time, *codes, dropout=None, dropout_dpm=None
    ) -> Prediction:
        """One pass down, one up for eps and one for each code's G.

        x_t: [B, H, W, C]; time, codes: from `time` and `code`. dropout, dropout_dpm: keys that
        switch on dropout in G and in eps_theta (each while it is trained); None is evaluation.
        """
        dpm = {"params": params["dpm"]}
        kwargs = {"deterministic": dropout_dpm is None}
        down, up = (None, None) if dropout_dpm is None else jax.random.split(dropout_dpm)
        features = self.unet.apply(
            dpm, x_t, time.dpm, rngs=_dropout(down), method="features", **kwargs
        )
        out = self.unet.apply(dpm, features, time.dpm, rngs=_dropout(up), method="output", **kwargs)
        eps, v = jnp.split(out, 2, axis=-1) if self.arch.learned_variance else (out, None)
        gradients = [
            self.estimator.apply(
                {"params": params["gradient"]},
                features,
                time.gradient,
                code,
                deterministic=dropout is None,
                rngs=_dropout(dropout),
            )
            for code in codes
        ]
        gradient = None
        if gradients:
            gradient = gradients[0] if len(gradients) == 1 else jnp.stack(gradients)
        return Prediction(eps, v, gradient)

    def latent_time(self, params: Params, t):
        """The latent network's share of t, int [N] -> [N, *]."""
        return self.latent.apply({"params": params["latent"]}, t, method="time")

    def latent_eps(self, params: Params, z_t, time):
        """eps_omega(z_t, t): [B, z_size] -> [B, z_size]."""
        return self.latent.apply({"params": params["latent"]}, z_t, time, method="output")


def _dropout(rng) -> dict:
    return {} if rng is None else {"dropout": rng}
