"""Calls the paper's functions with wrong shapes, which nothing checks outside of tests."""

import sys

import numpy as np

from pdae_jax import model, schedule  # noqa: F401

assert "beartype" not in sys.modules
schedule.linear().x_t(np.zeros((1, 2)), 3, np.zeros((7, 1, 2)))  # broadcasts
