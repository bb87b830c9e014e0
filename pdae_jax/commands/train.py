"""The stages of a config, each resumed where it stopped (the default)."""

import dataclasses
import os
import sys
from typing import Any

from etils import epy

from pdae_jax.commands import fewshot, page_command, report
from pdae_jax.commands.options import Options as Base
from pdae_jax.data.dataset import Data
from pdae_jax.networks.architecture import Architecture
from pdae_jax.runtime.choices import nearest
from pdae_jax.training.objectives import OBJECTIVES
from pdae_jax.training.settings import Settings

with epy.lazy_imports():  # --help needs no JAX
    from pdae_jax.runtime import processes
    from pdae_jax.training import trainer
    from pdae_jax.workdir import workdir as workdir_lib

STAGES = (*OBJECTIVES, "fewshot", "report")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Base):
    pass


def run(config: Any, path: str | os.PathLike[str], line: str) -> bool:
    """Runs the stages of a config, a ConfigDict, in a workdir.

    line: the command line, for the report. False where a signal stopped it, with a save.
    """
    if not config.stages:
        raise ValueError(f"config.stages is empty: give some of {', '.join(STAGES)}")
    for stage in config.stages:
        nearest(stage, STAGES, "stage")
    rows = [OBJECTIVES[stage] for stage in config.stages if stage in OBJECTIVES]
    trained = {group for row in rows for group in row.trains}
    if config.pretrained and not {g for row in rows for g in row.prerequisites} - trained:
        raise ValueError(
            f"--config.pretrained={config.pretrained} would be unused: the stages "
            f"{', '.join(config.stages)} train all they rest on; add :pdae to the config's name"
        )
    arch, data = Architecture(**config.model), Data(**config.data)
    report_options = report.Options(**config.report)
    labels = fewshot.labels_of(config.fewshot) if "fewshot" in config.stages else None
    settings = {stage: Settings(**config[stage]) for stage in config.stages if stage in OBJECTIVES}
    with processes.fail_together():
        if "report" in config.stages:  # before hours of training, not after
            report_options.check(arch.T)
            data.open("test")  # raises where nothing is held out
        workdir = workdir_lib.Workdir.create(path)
    stage = ""
    try:
        with workdir.lock():
            workdir.write_config(config.to_json_best_effort(indent=1))
            for stage in config.stages:
                processes.raise_if_stopped()
                if stage == "report":
                    page_command.run_page(
                        "report", workdir, report_options, line=line, data=data, skip_current=True
                    )
                elif labels and stage == "fewshot":
                    fewshot.fit_and_keep(workdir, labels)
                elif not trainer.train(
                    workdir,
                    stage,
                    arch=arch,
                    data=data,
                    settings=settings[stage],
                    pretrained=config.pretrained or None,
                    precision=config.precision,
                    fsdp=config.mesh.fsdp,
                    seed=config.seed,
                ):
                    return False
    except processes.Stopped:
        if processes.writes():
            print(f"stopped at {stage}; re-run the command to resume", file=sys.stderr)
        return False
    return True
