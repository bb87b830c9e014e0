"""The networks of one model as pure functions of their parameters.

Parameters are one plain dict of groups: "dpm", "encoder", "gradient" and "latent", of the networks,
"shifted" and "fewstep", the ways up that are distilled from them, and "statistics" and
"classifier", plain arrays. What is trained and what is frozen is a split of this dict. Flax stays
behind this file.
"""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from pdae_jax.arrays import Array, Codes, Images, Params, Rng
from pdae_jax.networks.architecture import PRECISIONS, Architecture
from pdae_jax.networks.encoder import Encoder
from pdae_jax.networks.gradient_estimator import GradientEstimator
from pdae_jax.networks.latent_mlp import LatentMLP
from pdae_jax.networks.layers import shared_taps
from pdae_jax.networks.unet import UNet, is_up_convolution
from pdae_jax.pdae import Prediction
from pdae_jax.schedule import Scalings, Schedule, named

STUDENTS = ("shifted", "fewstep")  # ways up that are distilled: estimators by their parameters
NETWORKS = ("dpm", "encoder", "gradient", "latent", *STUDENTS)
DTYPES: dict[str, DTypeLike] = dict(zip(PRECISIONS, (jnp.float32, jnp.bfloat16), strict=True))


class Time(NamedTuple):
    """The projections of t for both networks: N = B times in training, 1 in a sampler's step.

    gradient: of the estimator, or of the student in its place. scalings: factors [N, 1, 1, 1], of
    a network that predicts something else than eps.
    """

    dpm: Float[Array, "N width_dpm"]
    gradient: Float[Array, "N width_gradient"] | None
    scalings: Scalings | None = None


@dataclasses.dataclass(frozen=True)
class Networks:
    """eps_theta, G, E and the latent model of one architecture, computing in `dtype`.

    Parameters, outputs, norm statistics and softmax are float32 whatever `dtype` is. remat: a
    gradient keeps the input of each residual block and computes the rest of it again, which takes
    a third more time and a fraction of the memory; values are the same.
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The diffusion model's noise schedule."""
        return named(self.arch.schedule, self.arch.T, self.arch.betas)

    @functools.cached_property
    def unet(self) -> UNet:
        return UNet(self.arch, self.dtype, self.remat)

    @functools.cached_property
    def estimator(self) -> GradientEstimator:
        return GradientEstimator(self.arch, self.dtype, self.remat)

    @functools.cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.arch, self.dtype)

    @functools.cached_property
    def latent(self) -> LatentMLP:
        return LatentMLP(self.arch, self.dtype)

    def init(
        self,
        rng: Rng,
        groups: Collection[str] = ("dpm", "encoder", "gradient"),
        labels: int = 0,
    ) -> Params:
        """Fresh parameters of the named groups; a group's values do not depend on the others.

        labels: how many attributes the classifier has.
        """
        arch = self.arch
        x = jnp.zeros((1, *arch.image_shape))
        t, z = jnp.zeros((1,), jnp.int32), jnp.zeros((1, arch.z_size))

        def init_gradient(rng: Rng) -> Any:
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
        for group in STUDENTS:  # which training begins otherwise: `student`
            inits[group], rngs[group] = init_gradient, rngs["gradient"]
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

    def shapes(self, groups: Collection[str], labels: int = 0) -> Params:
        """The shapes and types of `init`'s parameters, none of which is computed."""
        return {
            group: jax.tree.map(lambda a: a, _shapes(self.arch, group, labels)) for group in groups
        }

    def frozen(self, params: Params) -> Params:
        """Parameters as they may be kept while nothing trains them.

        What a network's layers make of its parameters at every use is made once: kernels, and
        convolutions' biases, are rounded to `dtype`, an up-sampling kernel's taps are summed. No
        value changes. Parameters that are so already stay, rounded where `dtype` is another.
        """

        def layers(tree: Params) -> Params:
            given: dict[Any, Any] = flatten_dict(tree)
            kept: dict[Any, Any] = {}
            for (*layer, name), a in given.items():
                kernel = given.get((*layer, "kernel"), given.get((*layer, "taps")))
                # Norms have none, and compute in float32. On a GPU rounding a convolution's bias
                # is a kernel of its own; a matrix product's is rounded in passing, and XLA cuts
                # q, k and v apart at once only where it is.
                if kernel is not None and (a is kernel or kernel.ndim == 4):
                    a = a.astype(self.dtype)
                if name == "kernel" and is_up_convolution(layer):
                    name, a = "taps", shared_taps(a)
                kept[*layer, name] = a
            return unflatten_dict(kept)

        return {
            group: layers(tree) if group in NETWORKS else tree for group, tree in params.items()
        }

    @staticmethod
    def size(params: Params) -> int:
        """How many parameters there are, whether or not they are `frozen`."""
        given: dict[Any, Any] = flatten_dict(params)
        return sum(a.size * 9 // 16 if path[-1] == "taps" else a.size for path, a in given.items())

    def encode(self, params: Params, x_0: Images) -> Codes:
        """z = E(x_0), x_0 in [-1, 1]."""
        return _apply(self.encoder, params["encoder"], x_0)

    def student(self, params: Params) -> Params:
        """What a student begins from: eps_theta's own way up, under G's embedding of z.

        G's projections of z stand as they are.
        """
        arch, dpm, gradient = self.arch, params["dpm"], params["gradient"]
        if not arch.is_adm or arch.predicts != "eps":
            raise ValueError(
                "a student begins from eps_theta's own way up, under z: only of a diffusion model "
                "of ADM's blocks that predicts eps can it be distilled"
            )
        width, channels = 2 * sum(arch.up_conditions()), arch.image_shape[2]

        def eps_alone(a: Array) -> Array:  # of [eps, v], for every pixel of a patch
            a = a.reshape(*a.shape[:-1], arch.patch**2, arch.out_channels)[..., :channels]
            return a.reshape(*a.shape[:-2], -1)

        return {
            "time_projection": jax.tree.map(lambda a: a[..., -width:], dpm["time_projection"]),
            "z_embedding": gradient["z_embedding"],
            "z_projection": gradient["z_projection"],
            "up": {**dpm["up"], "out": jax.tree.map(eps_alone, dpm["up"]["out"])},
        }

    def time(self, params: Params, t: Int[Array, " N"], up: str = "gradient") -> Time:
        """The projections of t: all that depends on it alone, for a sampler to compute once.

        up: the way up beside eps_theta's, or in its place: "gradient", or one of STUDENTS.
        """
        read, scalings = self.schedule.given_to(self.arch.reads), self._scalings
        given = t if read is None else jnp.asarray(read, jnp.float32)[t]
        embedding, projection = _apply(self.unet, params["dpm"], given, method="time")
        factors = scalings and Scalings(
            *(jnp.asarray(one, jnp.float32)[t][:, None, None, None] for one in scalings)
        )
        if up not in params:
            return Time(projection, None, factors)
        gradient = _apply(self.estimator, params[up], embedding, method="time")
        return Time(projection, gradient, factors)

    @functools.cached_property
    def _scalings(self) -> Scalings | None:
        return self.schedule.scalings(self.arch.predicts)

    def code(self, params: Params, z: Codes, up: str = "gradient") -> Float[Array, "B width"]:
        """The projection of z: all that depends on it alone, for a sampler to compute once."""
        return _apply(self.estimator, params[up], z, method="code")

    def distilled(
        self,
        params: Params,
        x_t: Images,
        time: Time,
        code: Float[Array, "B width"],
        up: str = "shifted",
    ) -> Images:
        """One pass down and one up, a student's: what it puts out at (x_t, t, z).

        time, code: from `time` and `code` of the same way up.
        """
        features = _apply(self.unet, params["dpm"], x_t, time.dpm, method="features")
        return _apply(self.estimator, params[up], features, time.gradient, code)

    def predict(
        self,
        params: Params,
        x_t: Images,
        time: Time,
        *codes: Float[Array, "B width"],
        dropout: Rng | None = None,
        dropout_dpm: Rng | None = None,
    ) -> Prediction:
        """One pass down, one up for eps and one for each code's G.

        Whatever the network predicts, what comes back is eps.

        time, codes: from `time` and `code`. dropout, dropout_dpm: keys that switch on dropout in G
        and in eps_theta (each while it is trained); None is evaluation.
        """
        dpm, frozen = params["dpm"], dropout_dpm is None
        down, up = (None, None) if dropout_dpm is None else jax.random.split(dropout_dpm)
        scalings = time.scalings
        scaled = x_t if scalings is None else scalings.into * x_t
        features = _apply(
            self.unet, dpm, scaled, time.dpm, dropout=down, deterministic=frozen, method="features"
        )
        out = _apply(
            self.unet, dpm, features, time.dpm, dropout=up, deterministic=frozen, method="output"
        )
        eps, v = jnp.split(out, 2, axis=-1) if self.arch.learned_variance else (out, None)
        if scalings is not None:
            eps = scalings.out * eps + scalings.skip * x_t
        gradients = [
            _apply(
                self.estimator,
                params["gradient"],
                features,
                time.gradient,
                code,
                dropout=dropout,
                deterministic=dropout is None,
            )
            for code in codes
        ]
        gradient = None
        if gradients:
            gradient = gradients[0] if len(gradients) == 1 else jnp.stack(gradients)
        return Prediction(eps, v, gradient)

    def latent_time(self, params: Params, t: Int[Array, " N"]) -> Float[Array, "N width"]:
        """The latent network's projection of t."""
        return _apply(self.latent, params["latent"], t, method="time")

    def latent_eps(self, params: Params, z_t: Codes, time: Float[Array, "#B width"]) -> Codes:
        """eps_omega(z_t, t)."""
        return _apply(self.latent, params["latent"], z_t, time, method="output")


@functools.lru_cache(maxsize=256)
def _shapes(arch: Architecture, group: str, labels: int) -> Params:
    init = functools.partial(Networks(arch).init, groups=(group,), labels=labels)
    return jax.eval_shape(init, jax.random.key(0))[group]


def _apply(
    module: nn.Module, params: Params, *args: Any, dropout: Rng | None = None, **kwargs: Any
) -> Any:
    """A module's output of one group of parameters; dropout: the key of its masks."""
    rngs = {} if dropout is None else {"dropout": dropout}
    return module.apply({"params": params}, *args, rngs=rngs, **kwargs)
