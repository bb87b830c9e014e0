"""One of several processes that save twice into FOLDER; the second then gets SIGTERM."""

import os
import signal
import sys
import time

import numpy as np

from pdae_jax.runtime import processes
from pdae_jax.workdir.checkpoints import Checkpoints

coordinator, n, i, folder = sys.argv[1:]
processes.start(coordinator, int(n), int(i))
assert not any(processes.stop_asked() for _ in range(30))
with Checkpoints(folder) as checkpoints:
    for step in (10, 100000):
        checkpoints.save(step, {"dpm": {"x": np.zeros(3)}})
if i == "1":
    os.kill(os.getpid(), signal.SIGTERM)
for asked in range(3000):
    if processes.stop_asked():
        print(f"heeded at {asked}")
        break
    time.sleep(0.02)
