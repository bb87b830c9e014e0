"""Measurements: `speed` beside PyTorch, `growth` of cost with size, `input` of the loader alone,
`encoding_memory` of codes by the million, `solvers`, `distill` and `weighting` of quality, `tf32`
of rounding, `explorer` of a page's latency.

Each runs from a bare checkout: python -m benchmarks.speed --help
"""

import datetime
import os
import platform
from importlib import metadata


def where_and_when() -> str:
    """The machine, the day and JAX, as a number in a document is told with."""
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{datetime.date.today()}, jax {metadata.version('jax')}"
    )
