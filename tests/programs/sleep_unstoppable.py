"""A process of the command that says when it is ready and cannot stop halfway."""

import sys
import time

from pdae_jax.runtime import processes

coordinator, n, i = sys.argv[1:]
processes.start(coordinator, int(n), int(i), stoppable=False)
print("ready", flush=True)
time.sleep(300)
