"""The paper's arrays as types: what each letter is, and its shape. NumPy's or JAX's alike.

    B  examples      H, W, C  a picture's height, width, channels
    d  a code's size      T  times of the schedule      S  times that a sampler visits

Tests check them in every call (jaxtyping, tests/conftest.py); elsewhere they are documentation.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Key, UInt8

Array = jax.Array | np.ndarray

Images = Float[Array, "B H W C"]  # x_0, x_t, x_T, eps, G; x_0 in [-1, 1]
Codes = Float[Array, "B d"]  # z
State = Float[Array, "B *shape"]  # what is sampled: images, or codes by the latent model
Time = int | Int[Array, ""]  # t, the same for every example
Times = Int[Array, "B"]  # t of each example
Visited = Sequence[int] | Int[np.ndarray, "S"]  # a sampler's times in order, known when compiled
PerExample = Float[jax.Array, "B"]  # a loss, a distance

Pictures = Images | UInt8[Array, "B H W C"]  # what users hold: float in [-1, 1], or uint8

Rng = Key[jax.Array, ""]
Rngs = Key[jax.Array, "B"]  # one an example

Params = dict[str, Any]  # groups of parameters, or one group: nested dicts of arrays
