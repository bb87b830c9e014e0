"""One of several processes that encode, generate and evaluate with WORKDIR's model into OUT."""

import sys
from pathlib import Path

from pdae_jax import commands
from pdae_jax.commands import generation
from pdae_jax.runtime import processes
from pdae_jax.tasks import evaluation
from pdae_jax.workdir import code_table

coordinator, n, i, workdir, out = sys.argv[1:]
if n != "1":
    processes.start(coordinator, int(n), int(i))
code_table.PART_ROWS, generation.PART_ROWS, evaluation.PART_ROWS = 500, 3, 3
options = commands.Options(n=8, steps=2, latent_steps=2, invert_steps=2)
for mode in ("encode", "generate", "evaluate"):
    commands.run(mode, workdir, options, out=f"{out}/{mode}")
commands.fit_few_shot(Path(workdir), commands.Options(attribute="0", positives=9, negatives=8))
