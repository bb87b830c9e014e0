"""Ctrl-C as one line and the end, wherever the program is; nothing heavy is imported."""

import os
import signal
from types import FrameType

STATUS = 130  # the exit status, as shells have it for SIGINT


def end_in_one_line() -> None:
    """Makes SIGINT end the process at once: what it writes appears whole or not at all.

    Where it is ignored, as of a shell's background job, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"\npdae_jax: interrupted; the same command goes on from there\n")
    os._exit(STATUS)
