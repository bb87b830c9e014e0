"""One of several processes that ask the first what it sees, and count what all have."""

import sys

from pdae_jax.runtime import processes

coordinator, n, i = sys.argv[1:]
processes.start(coordinator, int(n), int(i))
print(processes.ask_first(lambda: processes.index() == 0))
print(processes.distinct(["a", "b"] if processes.index() else ["a", "a", "c"]))
print(processes.of_first(lambda: f"the first, {processes.index()}"))
