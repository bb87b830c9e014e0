"""The same numbers to the last bit from run to run, on a GPU too."""

import os

FLAG = "--xla_gpu_deterministic_ops=true"


def ask() -> None:
    """Asks XLA for kernels that add in one order; before JAX has found its devices.

    CPUs and TPUs have no others. Raises ValueError where XLA_FLAGS ask for the contrary.
    """
    flags, (name, _, value) = os.environ.get("XLA_FLAGS", "").split(), FLAG.partition("=")
    given = [flag for flag in flags if flag.partition("=")[0] == name]
    if any(flag.partition("=")[2].lower() not in ("", "1", "true") for flag in given):
        raise ValueError(
            f"--deterministic asks for {name}={value}, and XLA_FLAGS for {given[-1]}: leave out one"
        )
    if not given:
        os.environ["XLA_FLAGS"] = " ".join([*flags, FLAG])
