"""Random changes of training pictures: each is the transform it is called, in 8 bits and float."""

import itertools

import numpy as np
import pytest

from pdae_jax.data import open_source, train_batches
from pdae_jax.data.augmentation import Augmentation
from pdae_jax.data.dataset import Data

STILL = Augmentation(flip=False)


class Draws:
    """A generator whose uniform numbers are given."""

    def __init__(self, *values):
        self.values = iter(values)

    def random(self):
        return next(self.values)

    def uniform(self, low, high, size=None):
        return next(self.values) if size is None else [next(self.values) for _ in range(size)]


def smooth(height=24, width=32):
    """A float32 picture [height, width, 3] of gentle waves, unlike in each channel."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7 + k) * np.cos(y / 9 - k) * 0.7 for k in range(3)]
    return np.stack(waves, axis=-1).astype(np.float32)


def eight_bit(image):
    return np.round((image + 1) * 127.5).astype(np.uint8)


def test_nothing_set_is_the_picture_as_it_is():
    image = smooth()
    assert STILL(image, Draws()) is image
    assert np.array_equal(Augmentation()(image, Draws(0.4)), image[:, ::-1])
    assert np.array_equal(Augmentation()(image, Draws(0.6)), image)


def test_a_shift_is_whole_pixels_where_it_is_and_repeats_the_edge():
    image = smooth()
    moved = Augmentation(flip=False, shift=0.25)(image, Draws(0, 1, 0.5, 0))
    assert np.allclose(moved[6:, 4:], image[:-6, :-4], atol=1e-6)  # 6 down, 4 to the right
    assert np.allclose(moved[:6], moved[6:7], atol=1e-6)
    back = Augmentation(flip=False, shift=0.25)(image, Draws(0, -1, -0.5, 0))
    assert np.allclose(back[:-6, :-4], image[6:, 4:], atol=1e-6)


def test_a_rotation_by_90_degrees_is_that_of_numpy():
    image = smooth(32, 32)
    for draw, turns in ((1, 1), (-1, -1)):
        turned = Augmentation(flip=False, rotate=90)(image, Draws(0, 0, 0, draw))
        assert np.allclose(turned, np.rot90(image, turns), atol=1e-5)


def test_zoom_enlarges_about_the_centre():
    image = smooth()
    large = Augmentation(flip=False, zoom=0.5)(image, Draws(1, 0, 0, 0))
    small = Augmentation(flip=False, zoom=0.5)(large, Draws(-2 / 3, 0, 0, 0))  # 1.5, then 2 / 3
    assert np.abs(small - image)[4:-4, 6:-6].max() < 0.01
    assert np.abs(large - image).max() > 0.1


def test_hue_turns_colours_and_keeps_luma():
    image = smooth() * 0.4
    luma = np.array([0.299, 0.587, 0.114])
    turned = Augmentation(flip=False, hue=120)(image, Draws(0.5))
    assert np.allclose(turned @ luma, image @ luma, atol=1e-3)
    assert np.abs(turned - image).max() > 0.1
    assert np.allclose(Augmentation(flip=False, hue=120)(turned, Draws(-0.5)), image, atol=1e-6)
    grey = np.repeat(image[..., :1], 3, axis=-1)
    assert np.allclose(Augmentation(flip=False, hue=120)(grey, Draws(1)), grey, atol=2e-3)


@pytest.mark.parametrize(
    "changes", [{"shift": 0.1}, {"zoom": 0.2}, {"rotate": 20}, {"hue": 30}], ids=lambda c: [*c][0]
)
def test_8_bits_and_float_are_changed_alike(changes):
    image, augmentation = smooth(), Augmentation(flip=False, **changes)
    bytes_ = augmentation(eight_bit(image), np.random.default_rng(0))
    floats = augmentation(image, np.random.default_rng(0))
    assert (bytes_.dtype, floats.dtype) == (np.uint8, np.float32)
    assert bytes_.shape == floats.shape == image.shape
    assert np.abs(bytes_ / 127.5 - 1 - floats).max() < 0.02
    assert np.abs(floats).max() <= 1


def test_training_sees_other_changes_every_epoch_and_the_same_on_resuming():
    digits = open_source("digits", "test")
    augmentation = Data("digits", zoom=0.2, shift=0.1, rotate=10.0).augmentation
    how = {"size": 8, "channels": 1, "batch_size": len(digits), "seed": 5}
    with train_batches(digits, **how, augmentation=augmentation) as stream:
        first, second = itertools.islice(stream, 2)
    with train_batches(digits, **how, augmentation=augmentation, start_step=1) as resumed:
        assert np.array_equal(next(resumed)["image"], second["image"])
    by_picture = [b["image"][np.argsort(b["index"])] for b in (first, second)]
    assert not any(np.array_equal(a, b) for a, b in zip(*by_picture, strict=True))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"zoom": 1.0}, "data.zoom is 1.0: must be a share from 0 to 1"),
        ({"shift": -0.1}, "data.shift is -0.1"),
        ({"rotate": 200.0}, "data.rotate is 200.0: must be degrees from 0 to 180"),
        ({"hue": float("nan")}, "data.hue is nan"),
    ],
)
def test_what_is_out_of_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Data("digits", **changes)


def test_hue_is_for_rgb():
    with pytest.raises(ValueError, match="pictures have 1 channel"):
        train_batches(
            open_source("digits"),
            size=8,
            channels=1,
            batch_size=4,
            seed=0,
            augmentation=Augmentation(hue=10.0),
        )
