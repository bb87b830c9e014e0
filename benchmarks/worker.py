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
from pathlib import Path

from pdae_jax.runtime import cpu

ROOT = Path(__file__).parent.parent


class Worker:
    """The parent's side: starts a contender ("ours" or "peer") with one piece of work prepared."""

    def __init__(self, contender: str, **prepare):
        # What the command gives itself, huge pages for malloc among it, PyTorch gets too, but as the
        # authors released it. A GPU's memory is to be shared, and nothing compiled before counts.
        tuned = cpu.environment() if prepare["precision"] != "plain" else {}
        shared = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        }
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

    def ask(self, **request) -> dict:
        """Raises ValueError where the contender died; its own words are on stderr."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{self.process.args[-1]} ended (exit code {self.process.wait()}) at "
                f"{request}; its own words are above"
            ) from error

    def seconds(self, n: int) -> float:
        """How long n steps take."""
        return self.ask(run=n)["seconds"]

    def facts(self) -> dict:
        """versions, device and peak_bytes: of the device's memory, or the process's on a CPU."""
        return self.ask(facts=True)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def command(main) -> None:
    """Runs `main`; a contender that ends is one line on stderr, after its own words."""
    try:
        main()
    except ValueError as error:
        sys.exit(f"benchmarks: {error}")


def serve(contender: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"benchmarks.{contender}")
    from pdae_jax.networks.architecture import Architecture

    run = None
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        answer = {}
        if "prepare" in request:
            given = request["prepare"]
            given["arch"] = Architecture(**given["arch"])
            run, answer["seconds"], answer["settings"] = module.prepare(**given)
        elif "run" in request:
            run(request["run"])
            answer["seconds"] = time.perf_counter() - began
        else:
            peak = module.peak_bytes() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            answer = {"versions": module.versions(), "device": module.device(), "peak_bytes": peak}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
