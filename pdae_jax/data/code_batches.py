"""Batches of a table of codes, on which the latent model and the classifier are trained."""

from collections.abc import Generator

import numpy as np


def code_batches(
    z: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict[str, np.ndarray], None, None]:
    """Yields shuffled batches without end, from batch `start_step` on.

    z: float32 [N, d]; labels: float32 [N, A]. batch_size: over all processes, each gets its share.
    Each epoch has an order of its own, a function of (seed, epoch) alone. Yields dicts of "z"
    [b, d] and "label" [b, A].
    """
    epoch, order = -1, np.empty(0, np.int64)
    share = batch_size // process_count
    first = start_step * batch_size + process_index * share
    while True:
        rows = np.empty(share, np.int64)
        for k in range(share):
            at, place = divmod(first + k, len(z))
            if at != epoch:
                epoch, order = at, np.random.default_rng([seed, 2, at]).permutation(len(z))
            rows[k] = order[place]
        yield {"z": z[rows], "label": labels[rows]}
        first += batch_size
