"""Random changes of a training picture, so that few pictures teach more."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pdae_jax.data.transforms import LUMINANCE

# Luma and two colour differences (YIQ of NTSC) of RGB: hue is the angle between the differences.
_YIQ = np.array([LUMINANCE, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_LIMITS = {
    "zoom": (1, "a share"),
    "shift": (1, "a share"),
    "rotate": (180, "degrees"),
    "hue": (180, "degrees"),
}


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random, each picture anew in every epoch.

    flip: mirrored with probability 1/2. zoom: enlarged by 1 + u, u uniform in [-zoom, zoom]. shift:
    moved by up to this share of its size, either way, along both axes. rotate: turned by up to so
    many degrees, either way. hue: the hues of RGB pictures turned by up to so many degrees of the
    colour circle, their luma as it was. What comes into the picture repeats its edge.

    Raises ValueError for values out of range.
    """

    flip: bool = True
    zoom: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name, (most, unit) in _LIMITS.items():
            value = getattr(self, name)
            inside = 0 <= value < most if unit == "a share" else 0 <= value <= most
            if not inside:
                raise ValueError(f"data.{name} is {value}: must be {unit} from 0 to {most}")

    def check_channels(self, channels: int) -> None:
        """Raises ValueError for a hue where pictures are not RGB."""
        if self.hue and channels != 3:
            raise ValueError(
                f"data.hue is {self.hue} and pictures have {channels} channel(s): hues are RGB's, "
                f"leave it 0"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A changed picture of the same shape and type.

        image: [H, W, C], uint8, or float32 in [-1, 1], where results are clipped.
        """
        if self.flip and rng.random() < 0.5:
            image = image[:, ::-1]
        if self.zoom or self.shift or self.rotate:
            image = self._moved(image, *rng.uniform(-1, 1, 4))
        if self.hue:
            image = _turned(image, self.hue * rng.uniform(-1, 1))
        return image

    def _moved(
        self, image: np.ndarray, zoom: float, down: float, right: float, turn: float
    ) -> np.ndarray:
        """By a similarity about the picture's centre, each argument in [-1, 1]; cubic."""
        height, width = image.shape[:2]
        scale = 1 / (1 + self.zoom * zoom)
        angle = np.radians(self.rotate * turn)
        back = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # Pillow asks for the place in the source of each place in the result.
        half = np.array([width, height]) / 2
        start = half - back @ (half + self.shift * np.array([right * width, down * height]))
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ back.T + start
        room = int(np.ceil(max(0, -corners.min(), (corners - [width, height]).max()))) + 2
        padded = np.pad(image, ((room, room), (room, room), (0, 0)), "edge")
        (a, b), (d, e) = back
        c, f = start + room
        planes = [
            Image.fromarray(np.ascontiguousarray(padded[..., k])).transform(
                (width, height),
                Image.Transform.AFFINE,
                (a, b, c, d, e, f),
                Image.Resampling.BICUBIC,
            )
            for k in range(image.shape[2])
        ]
        moved = np.stack([np.asarray(plane) for plane in planes], axis=-1)
        return moved if image.dtype == np.uint8 else np.clip(moved, -1, 1)


def _turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """With every hue turned by so many degrees."""
    angle = np.radians(degrees)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    colours = image @ (np.linalg.inv(_YIQ) @ turn @ _YIQ).T
    if image.dtype == np.uint8:
        return np.clip(np.round(colours), 0, 255).astype(np.uint8)
    return np.clip(colours, -1, 1).astype(np.float32)
