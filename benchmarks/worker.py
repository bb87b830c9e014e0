"""A process that measures one contender, so that neither JAX nor PyTorch disturbs the other.

The parent writes requests as lines of JSON and reads one answer each: {"prepare": {...}},
{"run": n}, {"facts": true}. What the libraries print goes to stderr.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pdae_jax.runtime import cpu

ROOT = Path(__file__).parent.parent


class Worker:
    """The parent's side: starts a contender ("jax" or "torch") with one piece of work prepared."""

    def __init__(self, contender: str, **prepare: Any):
        # The settings that the command makes for itself, huge pages for malloc among them, PyTorch
        # gets too, unless it is to run as the authors released it. A GPU's memory is to be shared,
        # and nothing compiled before counts.
        tuned = cpu.environment() if prepare["precision"] != "plain" else {}
        shared = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        }
        self.contender = contender
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", contender],
            cwd=ROOT,
            text=True,
            env={**os.environ, **shared, **tuned},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        ready = self.ask(prepare=prepare)
        self.compile_seconds, self.settings = ready["seconds"], ready["settings"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Raises ValueError where the contender died; its own message is on stderr.
        """
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{self.contender} ended (exit code {self.process.wait()}) at {request}; its own "
                f"message is above"
            ) from error

    def seconds(self, n: int) -> float:
        """Seconds that n steps take."""
        return self.ask(run=n)["seconds"]

    def facts(self) -> dict[str, Any]:
        """versions, device and peak_bytes: of the device's memory, or the process's on a CPU."""
        return self.ask(facts=True)

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def command(main: Callable[[], None]) -> None:
    """Runs `main`; a contender that ends is one line on stderr, after its own message."""
    try:
        main()
    except ValueError as error:
        sys.exit(f"benchmarks: {error}")


def serve(contender: str) -> None:
    """The contender's side: prepares and runs what the parent asks for, until it closes stdin."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.{contender}_contender")
    from pdae_jax.networks.architecture import Architecture

    run: Callable[[int], None] | None = None
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        answer: dict[str, Any] = {}
        if "prepare" in request:
            given = request["prepare"]
            given["arch"] = Architecture(**given["arch"])
            run, answer["seconds"], answer["settings"] = module.prepare(**given)
        elif "run" in request:
            assert run is not None  # "prepare" comes first
            run(request["run"])
            answer["seconds"] = time.perf_counter() - began
        else:
            peak = module.peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer = {"versions": module.versions(), "device": module.device(), "peak_bytes": peak}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
