"""One of several processes that work in chunks kept in FOLDER, the fourth of which fails."""

import sys

from pdae_jax.runtime import processes
from pdae_jax.workdir.chunk_cache import Parts

coordinator, n, i, folder = sys.argv[1:]
processes.start(coordinator, int(n), int(i))


def make(rows, advance):
    if rows.start == 3:
        raise OSError(f"rows from {rows.start} cannot be made")
    return {"x": rows}


try:
    Parts(folder, {}, size=1).whole(5, make, "rows")
except OSError as error:
    print(error, next(processes._questions))
