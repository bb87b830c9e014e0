"""One of several processes that encode, generate and evaluate with WORKDIR's model into OUT."""

import sys

from pdae_jax.commands import encode, evaluate, fewshot, generate
from pdae_jax.commands.page_command import run_page
from pdae_jax.runtime import processes
from pdae_jax.tasks import evaluation, projection
from pdae_jax.workdir import code_table
from pdae_jax.workdir.workdir import Workdir

coordinator, n, i, workdir, out = sys.argv[1:]
if n != "1":
    processes.start(coordinator, int(n), int(i), stoppable=False)  # as the command starts them
projection.umap_is_there = lambda: False  # it would compile for half a minute
code_table.CHUNK_ROWS, generate.CHUNK_ROWS, evaluation.CHUNK_ROWS = 500, 3, 3
run_page("encode", workdir, encode.Options(format=("npz", "parquet")), out=f"{out}/encode")
quick = {"n": 8, "steps": 2, "latent_steps": 2}
run_page("generate", workdir, generate.Options(**quick), out=f"{out}/generate")
run_page("evaluate", workdir, evaluate.Options(**quick, invert_steps=2), out=f"{out}/evaluate")
fewshot.fit_and_keep(Workdir(workdir), fewshot.Labels(attribute="0", positives=9, negatives=8))
