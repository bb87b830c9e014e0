"""Metrics in batches over the devices; LPIPS and FID only where their weights are given."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from pdae_jax.arrays import Array, Params, Pictures
from pdae_jax.images import visible
from pdae_jax.metrics import image, inception, lpips
from pdae_jax.runtime import sharding

GROUPS = ("alexnet", "lpips", "inception")
SMALLEST = 31  # AlexNet's last map of a smaller picture is empty


class Metrics:
    """Distances and features of pictures, over this process's devices.

    params: groups of converted files; "alexnet" and "lpips" give LPIPS, "inception" gives FID.
    """

    def __init__(self, params: Params | None = None, *, batch_size: int = 64) -> None:
        self.mesh, self.batch_size = sharding.make_mesh(devices=jax.local_devices()), batch_size
        self.params = jax.device_put(params or {}, sharding.replicated(self.mesh))

    def missing(self, image_shape: Sequence[int]) -> dict[str, str]:
        """The metrics not to be had of pictures of this shape -> why, and what to do about it."""
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

    def compare(self, images: Pictures, decoded: Pictures) -> dict[str, Float[np.ndarray, " B"]]:
        """SSIM, MSE, PSNR and, where its weights are given, LPIPS: name -> one number a picture."""
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

    def features(self, images: Pictures) -> Float[np.ndarray, "B 2048"]:
        """Inception's features of pictures as they are shown: grey three times, composites."""
        shown = visible(np.asarray(images))
        shown = shown if shown.shape[-1] == 3 else shown.repeat(3, -1)
        return np.asarray(
            sharding.in_batches(
                _features,
                self.params["inception"],
                jnp.asarray(shown),
                mesh=self.mesh,
                batch_size=self.batch_size,
            )
        )


@jax.jit
def _compare(params: Params, images: Pictures, decoded: Pictures) -> dict[str, Float[Array, " B"]]:
    a, b = (
        x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else (x + 1) / 2
        for x in (images, decoded)
    )
    mse = image.mse(a, b)
    found = {"ssim": image.ssim(a, b), "mse": mse, "psnr": image.psnr(mse)}
    if params:
        distance = functools.partial(lpips.lpips, params)
        found["lpips"] = _by_channel(distance, 2 * a - 1, 2 * b - 1)
    return found


@jax.jit
def _features(params: Params, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B 2048"]:
    return inception.features(params, images)


def _by_channel(metric: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
    """A metric of colour pictures; of other channels the mean over them, each as grey."""
    channels = a.shape[-1]
    if channels == 3:
        return metric(a, b)
    found = [
        metric(a[..., k : k + 1].repeat(3, -1), b[..., k : k + 1].repeat(3, -1))
        for k in range(channels)
    ]
    return jnp.stack(found).mean(0)
