"""Picture grids to look at while a model trains: few steps, to be quick."""

import jax
import numpy as np

from pdae_jax.data.dataset import Data
from pdae_jax.data.pipeline import first_pictures
from pdae_jax.images import grid
from pdae_jax.model import Model
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.groups import Params
from pdae_jax.protocol import PROTOCOLS
from pdae_jax.value_range import ValueRange

PICTURES = 8


class Preview:
    """Averaged parameters -> grids; one `Model` for the run, so that nothing compiles twice."""

    def __init__(self, arch: Architecture, precision: str, data: Data, value_range: ValueRange):
        """Takes held-out pictures where there are any."""
        source = data.open("train" if data.test_fraction == 0 else "test", value_range)
        self.images = first_pictures(source, arch.image_shape, PICTURES, data.max_broken)
        self.model = Model(arch, {}, precision=precision)

    def __call__(self, params: Params) -> dict[str, np.ndarray]:
        self.model.params = self.model.net.frozen(params)
        for name, group in {"distilled": "shifted", "fewstep": "fewstep"}.items():
            if group in params:
                self.model.protocol = PROTOCOLS[name].at_most(self.model.arch.T)
        return grids(self.model, self.images)


def grids(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """Samples of a diffusion model, or reconstructions by PDAE: name -> uint8 [H, W, C]."""
    if "encoder" not in model.params:
        x_T = jax.random.normal(jax.random.key(0), images.shape)
        return {"samples": grid([model.decode(None, x_T)])}
    z = model.encode(images)
    from_z = [model.decode(z, temperature=size) for size in (0.0, 1.0)]
    inferred = model.decode(z, model.invert(images, z))
    return {"original_fromz_fromz_inferred": grid([images, *from_z, inferred])}
