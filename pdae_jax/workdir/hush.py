"""Keeps off the terminal what Orbax's threads say of errors that it raises again in ours."""

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

_ORBAX = f"{os.sep}orbax{os.sep}"


def hush_orbax() -> None:
    """Installs the filters, once a process: of what Orbax logs, and of its threads' errors."""
    if getattr(threading.excepthook, "of_orbax", False):
        return
    of_threads, unraisable = threading.excepthook, sys.unraisablehook

    def of_other_threads(args: threading.ExceptHookArgs) -> None:
        if not _through_orbax(args.exc_traceback):
            of_threads(args)

    def not_late(args: Any) -> None:
        """Reads that end after another has failed find their event loop closed."""
        if not (
            isinstance(args.exc_value, RuntimeError) and "loop is closed" in str(args.exc_value)
        ):
            unraisable(args)

    setattr(of_other_threads, "of_orbax", True)  # noqa: B010 - a function's own attribute
    threading.excepthook, sys.unraisablehook = of_other_threads, not_late
    logging.getLogger("absl").addFilter(lambda record: _ORBAX not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: not _late_future(record))


def _through_orbax(trace: TracebackType | None) -> bool:
    while trace is not None:
        if _ORBAX in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def _late_future(record: logging.LogRecord) -> bool:
    """Whether asyncio speaks of a read of a checkpoint whose error nobody waits for any more."""
    late = "exception was never retrieved" in record.getMessage()
    return late and "OCDBT" in str(record.exc_info and record.exc_info[1])
