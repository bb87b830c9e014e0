"""One of several processes that train OBJECTIVE into WORKDIR for STEPS steps; 1 where cut short.

With one argument more kernels lie as on a GPU.
"""

import sys

from helpers import DIGITS_ARCH

from pdae_jax.data.dataset import Data
from pdae_jax.runtime import processes, sharding
from pdae_jax.training.settings import Settings
from pdae_jax.training.trainer import train

coordinator, n, i, workdir, objective, steps, fsdp, *as_on_a_gpu = sys.argv[1:]
if as_on_a_gpu:
    sharding.as_cudnn_reads = lambda mesh, dtype: True
if n != "1":
    processes.start(coordinator, int(n), int(i), patience=20)
settings = Settings(
    steps=int(steps),
    batch_size=16,
    pictures_every=4,
    health_every=3,
    log_every=1,
    save_every=2,
    ema=0.5,
    learning_rate=1e-3,
)
whole = train(
    workdir,
    objective,
    arch=DIGITS_ARCH,
    data=Data("digits", flip=False),
    settings=settings,
    fsdp=int(fsdp),
)
sys.exit(not whole)
