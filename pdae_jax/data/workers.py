"""Worker processes that load pictures.

They are started as fresh interpreters that import this package alone: never forked from a process
that runs JAX, whose threads do not survive a fork, and never importing the main script, which would
import JAX in each (as `multiprocessing` does; Grain's own workers also import JAX). The main
process keeps the order, so any number of workers gives the same data.
"""

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import IO, Any

from pdae_jax.formats.errors import DataError

Process = subprocess.Popen[bytes]

_SERVE = "from pdae_jax.data.workers import serve; serve()"


class WorkerPool:
    """`pool(i)` is `load(i)`, computed in one of `workers` processes; call it from many threads.

    load: a picklable function whose results can be pickled.
    Raises DataError when a worker dies.
    """

    def __init__(self, load: Callable[[int], Any], workers: int):
        import cloudpickle  # a source defined in the main script travels by value

        payload = cloudpickle.dumps(load)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
        }
        self._idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
        processes: list[Process] = []
        self.close = weakref.finalize(self, _stop, processes)
        for _ in range(workers):
            # In a session of its own: Ctrl-C is for the main process, whose end closes the pipes.
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            processes.append(process)
            _pipe(process.stdin).write(payload)
            self._idle.put(process)

    def __call__(self, i: int) -> Any:
        process = self._idle.get()
        try:
            requests = _pipe(process.stdin)
            pickle.dump(i, requests)
            requests.flush()
            return pickle.load(_pipe(process.stdout))
        except (EOFError, OSError, ValueError) as error:
            raise DataError(
                f"a worker process that loads pictures ended (exit code "
                f"{process.poll()}): see its message above, or use workers=0"
            ) from error
        finally:
            self._idle.put(process)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # both ends are opened as pipes
    return pipe


def _stop(processes: list[Process]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):  # a request that was never read
                _pipe(pipe).close()


def serve() -> None:
    """Runs a worker's main loop: reads a function, then arguments, and writes results."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get into the answers
    load = pickle.load(requests)
    while True:
        try:
            i = pickle.load(requests)
        except EOFError:  # the main process has gone
            return
        pickle.dump(load(i), answers, protocol=5)
        answers.flush()
