"""Several processes as one: how they start, wait for each other, and which of them writes."""

import contextlib
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pdae_jax.runtime import cpu


def start(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    patience: int = 100,
    stoppable: bool = True,
) -> None:
    """Starts `jax.distributed`, where arguments or the environment show that there are several.

    coordinator: HOST:PORT of process 0; processes: how many; process: which one this is. Without
    them Cloud TPU, SLURM and Open MPI are known by what they set (Open MPI 5 does not set where
    process 0 is: then the coordinator alone must be given). patience: seconds without a sign
    of life after which a process is taken for dead and all others end too, so that the command can
    be started again and resumes from the last checkpoint. stoppable: whether SIGTERM is a request
    that `stop_asked` answers; else it ends a process at once. Must run before JAX is used.
    Raises ValueError where some of the three are missing.
    """
    jax.config.update("jax_enable_preemption_service", stoppable)
    mpi = open_mpi(os.environ)
    if coordinator and mpi and processes is None and process is None:
        processes, process = mpi
    if not (coordinator is None and processes is None and process is None):
        if coordinator is None or processes is None or process is None:
            raise ValueError(
                f"--coordinator=HOST:PORT, --processes and --process go together; got "
                f"{coordinator}, {processes}, {process}"
            )
        if not coordinator.rpartition(":")[2].isdecimal():
            raise ValueError(f"--coordinator must be HOST:PORT of process 0, got {coordinator}")
        if not 0 <= process < processes:
            raise ValueError(f"--process must be from 0 to {processes - 1}, got {process}")
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            local_devices(os.environ),
            heartbeat_timeout_seconds=patience,
        )
    elif in_cluster(os.environ, cpu.tpu()):
        if mpi and not {"OMPI_MCA_orte_hnp_uri", "SLURM_STEP_NODELIST"} & set(os.environ):
            raise ValueError(
                "this Open MPI does not tell where process 0 is: give "
                "--coordinator=HOST:PORT, its host and a free port"
            )
        jax.distributed.initialize(
            local_device_ids=local_devices(os.environ), heartbeat_timeout_seconds=patience
        )


def in_cluster(environment: Mapping[str, str], tpu: bool = False) -> bool:
    """Whether environment variables show several processes.

    tpu: whether this machine has one: a Cloud TPU virtual machine's metadata then tell, not its
    variables, how many there are (perhaps one).
    """
    # A batch script without srun has SLURM's rank too, but is no step of it.
    slurm = {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NODELIST"} <= set(environment)
    return (
        slurm
        and int(environment["SLURM_NTASKS"]) > 1
        or (open_mpi(environment) or (1, 0))[0] > 1
        or any(
            "," in environment.get(name, "")
            for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")
        )
        or tpu
        and not {"TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"} & set(environment)
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )


def local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """What JAX is told of this process's devices: [] for all that it sees, None for its own choice.

    Under SLURM and Open MPI JAX takes one GPU a process, which leaves the others of a node idle
    where there is one process a node.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # which JAX reads
    if own := environment.get("OMPI_COMM_WORLD_LOCAL_SIZE"):  # first: mpirun has steps of its own
        return [] if own == "1" else None
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")  # such as "1(x2)" of two nodes
    return [] if re.fullmatch(r"1(\(x\d+\))?", tasks) else None


def open_mpi(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """How many processes Open MPI started, and which this one is; None where it started none."""
    size, rank = "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"
    if {size, rank} <= {*environment}:
        return int(environment[size]), int(environment[rank])
    return None


def count() -> int:
    return jax.process_count()


def index() -> int:
    return jax.process_index()


def writes() -> bool:
    """Whether this process is the one that writes shared files."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line on stderr, once for all processes."""
    if writes():
        print(line, file=sys.stderr, flush=True)


def wait(for_what: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(for_what)


def ask_first(question: Callable[[], bool]) -> bool:
    """Process 0's answer, broadcast to all, to a question that files decide.

    On a disk that several machines share each may see another moment of it, and all must go the
    same way.
    """
    if jax.process_count() == 1:
        return question()
    return bool(multihost_utils.broadcast_one_to_all(writes() and question()))


def sums(numbers: np.ndarray) -> np.ndarray:
    """The sums over all processes of unsigned 32-bit numbers, each modulo 2^32."""
    if jax.process_count() == 1:
        return numbers
    return multihost_utils.process_allgather(numbers).sum(0, dtype=np.uint32)


def distinct(texts: Collection[str]) -> int:
    """How many different texts all processes have together."""
    if jax.process_count() == 1:
        return len(set(texts))
    most = int(multihost_utils.process_allgather(np.asarray(len(texts))).max())
    if not most:
        return 0
    digests = np.zeros((most, 16), np.uint8)  # zeros fill up
    for row, text in zip(digests, texts):
        row[:] = np.frombuffer(hashlib.md5(text.encode()).digest(), np.uint8)
    told = multihost_utils.process_allgather(digests).reshape(-1, 16)
    return len({bytes(row) for row in told} - {bytes(16)})


_TOLD = (ValueError, OSError)  # errors that the command prints in one line


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """A barrier at the end of the block that raises one process's ValueError or OSError on all."""
    if jax.process_count() == 1:
        yield
        return
    error, words = None, np.zeros(1000, np.uint8)  # only arrays of one size are gathered
    try:
        yield
    except _TOLD as caught:
        error = caught
        words[0] = 1 + isinstance(error, OSError)
        said = np.frombuffer(str(error).encode()[: words.size - 1], np.uint8)
        words[1 : 1 + said.size] = said
    for kind, *said in multihost_utils.process_allgather(words):
        if kind:
            text = bytes(said).rstrip(b"\0").decode(errors="replace")
            raise _TOLD[kind - 1](text) from error


def of_first(compute: Callable[[], str]) -> str:
    """Process 0's text, on all; its ValueError or OSError too."""
    if jax.process_count() == 1:
        return compute()
    text = b""
    with fail_together():
        if writes():
            text = compute().encode()
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(text))))
    letters = np.zeros(size, np.uint8)
    letters[: len(text)] = np.frombuffer(text, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(letters)).tobytes().decode()


class Stopped(Exception):
    """A signal asked the processes to stop; finished work is kept."""


def raise_if_stopped() -> None:
    """Raises Stopped, on all processes at the same question, where a signal asked any to stop."""
    if stop_asked():
        raise Stopped


_questions = itertools.count(1)


def stop_asked() -> bool:
    """Whether a signal asked any process to stop; all of them learn it at the same question.

    JAX agrees on one number after the highest that any process has asked by, once; so these count
    the questions of the process's whole life, not steps, which start anew with every stage and
    resume from a checkpoint.
    """
    return (
        jax.process_count() > 1
        # JAX adds its configuration's attributes while it is imported.
        and jax.config.jax_enable_preemption_service  # pyright: ignore[reportAttributeAccessIssue]
        and multihost_utils.reached_preemption_sync_point(next(_questions))
    )


def to_host(tree: Any) -> Any:
    """Arrays over the devices of all processes as NumPy arrays, whole, on each of them."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(
        lambda x: (
            np.asarray(x)
            if x.is_fully_replicated
            else multihost_utils.process_allgather(x, tiled=True)
        ),
        tree,
    )
