"""One of several processes that work in chunks kept in FOLDER, the fourth of which fails."""

import sys

from pdae_jax.runtime import processes
from pdae_jax.workdir.chunk_cache import ChunkCache

coordinator, n, i, folder = sys.argv[1:]
processes.start(coordinator, int(n), int(i))


def compute(rows, advance):
    if rows.start == 3:
        raise OSError(f"rows from {rows.start} cannot be made")
    return {"x": rows}


try:
    ChunkCache(folder, {}, size=1).joined(5, compute, "rows")
except OSError as error:
    print(error, next(processes._questions))
