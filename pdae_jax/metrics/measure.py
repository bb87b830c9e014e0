"""What pictures are measured by: what needs no weights always, LPIPS and FID where their weights are."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pdae_jax.metrics import image, inception, lpips
from pdae_jax.runtime import sharding
from pdae_jax.workdir import checkpoints as checkpoint

GROUPS = ("alexnet", "lpips", "inception")
SMALLEST = 31  # AlexNet's last map of a smaller picture is empty


class Metrics:
    """Distances and features of pictures, over this process's devices.

    params: groups of converted files; "alexnet" and "lpips" give LPIPS, "inception" gives FID.
    """

    def __init__(self, params: dict | None = None, *, batch_size: int = 64):
        self.mesh, self.batch_size = sharding.make_mesh(devices=jax.local_devices()), batch_size
        self.params = jax.device_put(params or {}, sharding.replicated(self.mesh))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Metrics":
        """Those of the metric files that the converter brought into the directory `path`."""
        path = Path(path).expanduser()
        there = [
            group for save in checkpoint.saved(path) for group in save.groups if group in GROUPS
        ]
        if not there:
            raise ValueError(
                f"no metric weights in {path}: bring the files in with "
                f"tools/convert_torch_weights.py (docs/checkpoints.md)"
            )
        return cls(checkpoint.read_weights(path, there))

    def missing(self, image_shape) -> dict[str, str]:
        """What cannot be measured of pictures of this shape -> why, and what to do about it."""
        found = {}
        if not {"alexnet", "lpips"} <= self.params.keys():
            found["LPIPS"] = (
                "needs torchvision's AlexNet and LPIPS's heads: convert them "
                "(docs/checkpoints.md) and give --metrics=DIR"
            )
        elif min(image_shape[:2]) < SMALLEST:
            found["LPIPS"] = f"needs pictures of {SMALLEST} x {SMALLEST} pixels or more"
        if "inception" not in self.params:
            found["FID"] = (
                "needs FID's Inception of 2015-12-05: convert it "
                "(docs/checkpoints.md) and give --metrics=DIR"
            )
        return found

    def compare(self, images, decoded) -> dict[str, np.ndarray]:
        """SSIM, MSE, PSNR and, where its weights are, LPIPS of uint8 or float [-1, 1] pictures.

        images, decoded: [B, H, W, C] -> name -> [B].
        """
        skip = "LPIPS" in self.missing(np.shape(images)[1:])
        params = {} if skip else {name: self.params[name] for name in ("alexnet", "lpips")}
        found = sharding.in_batches(
            _compare,
            params,
            jnp.asarray(images),
            jnp.asarray(decoded),
            mesh=self.mesh,
            batch_size=self.batch_size,
        )
        return {
            name: np.asarray(found[name])
            for name in ("ssim", "lpips", "mse", "psnr")
            if name in found
        }

    def features(self, images) -> np.ndarray:
        """Inception's features of uint8 pictures [B, H, W, C] -> float32 [B, 2048]."""
        return np.asarray(
            sharding.in_batches(
                _features,
                self.params["inception"],
                jnp.asarray(images),
                mesh=self.mesh,
                batch_size=self.batch_size,
            )
        )


@jax.jit
def _compare(params, images, decoded):
    a, b = (
        x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else (x + 1) / 2
        for x in (images, decoded)
    )
    mse = image.mse(a, b)
    found = {"ssim": image.ssim(a, b), "mse": mse, "psnr": image.psnr(mse)}
    if params:
        found["lpips"] = lpips.lpips(params, _colour(2 * a - 1), _colour(2 * b - 1))
    return found


@jax.jit
def _features(params, images):
    return inception.features(params, _colour(images))


def _colour(images):
    """[B, H, W, C] as colour: grey three times, of more channels the first three."""
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, -1)
