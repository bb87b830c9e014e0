"""Several processes as one: how they start, wait for each other, and which of them writes."""
import itertools
import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from pdae_jax import cpu


def start(coordinator: str | None = None, processes: int | None = None,
          process: int | None = None, patience: int = 100, stoppable: bool = True) -> None:
    """Starts `jax.distributed`, where arguments or the environment show that there are several.

    coordinator: HOST:PORT of process 0; processes: how many; process: which one this is. Without
    them Cloud TPU, SLURM and Open MPI are known by what they set (Open MPI 5 does not set where
    process 0 is: then the coordinator alone must be given). patience: seconds without a sign
    of life after which a process is taken for dead and all others end too, so that the command can
    be started again and goes on from the last checkpoint. stoppable: whether SIGTERM is a request
    that `stop_asked` tells of; else it ends a process at once. Must run before JAX is used.
    Raises ValueError where some of the three are missing.
    """
    jax.config.update("jax_enable_preemption_service", stoppable)
    mpi = open_mpi(os.environ)
    if coordinator and mpi and processes is None and process is None:
        processes, process = mpi
    given = (coordinator, processes, process)
    if any(value is not None for value in given):
        if None in given:
            raise ValueError(f"--coordinator=HOST:PORT, --processes and --process go together; got "
                             f"{coordinator}, {processes}, {process}")
        if not 0 <= process < processes:
            raise ValueError(f"--process must be from 0 to {processes - 1}, got {process}")
        jax.distributed.initialize(coordinator, processes, process,
                                   heartbeat_timeout_seconds=patience)
    elif in_cluster(os.environ, cpu.tpu()):
        if mpi and not {"OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST"} & set(os.environ):
            raise ValueError("this Open MPI does not tell where process 0 is: give "
                             "--coordinator=HOST:PORT, its host and a free port")
        jax.distributed.initialize(heartbeat_timeout_seconds=patience)


def in_cluster(environment, tpu: bool = False) -> bool:
    """Whether environment variables show several processes.

    tpu: whether this machine has one: a Cloud TPU virtual machine's metadata then tell, not its
    variables, how many there are (perhaps one).
    """
    # A batch script without srun has SLURM's rank too, but is no step of it.
    slurm = {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"} <= set(environment)
    return (slurm and int(environment["SLURM_NTASKS"]) > 1
            or (open_mpi(environment) or (1, 0))[0] > 1
            or any("," in environment.get(name, "")
                   for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
            or tpu and not {"TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"} & set(environment)
            or "MEGASCALE_COORDINATOR_ADDRESS" in environment)


def open_mpi(environment) -> tuple[int, int] | None:
    """How many processes Open MPI started, and which this one is; None where it started none."""
    names = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    return tuple(int(environment[name]) for name in names) if {*names} <= {*environment} else None


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def writes() -> bool:
    """Whether this process is the one that writes what is shared."""
    return jax.process_index() == 0


def wait(for_what: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(for_what)


def first_says(yes: bool) -> bool:
    """What the first process answers to a question that files decide.

    On a disk that several machines share each may see another moment of it, and all must go the
    same way.
    """
    return yes if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(yes))


_questions = itertools.count(1)


def stop_asked() -> bool:
    """Whether a signal asked any process to stop; all of them learn it at the same question.

    JAX agrees on one number after the highest that any process has asked by, once; so these count
    the questions of the process's whole life, not steps, which start anew with every stage and go
    on from a checkpoint.
    """
    return (jax.process_count() > 1
            and multihost_utils.reached_preemption_sync_point(next(_questions)))


def to_host(tree):
    """Arrays over the devices of all processes as NumPy arrays, whole, on each of them."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda x: np.asarray(x) if x.is_fully_replicated
                        else multihost_utils.process_allgather(x, tiled=True), tree)
