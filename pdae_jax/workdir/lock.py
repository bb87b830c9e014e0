"""The lock of a folder: one command at a time writes in it.

A lock of the operating system on the file FOLDER/.lock, which names the holder: its end, however it
comes, releases the lock, on NFS too; a mounted bucket (gcsfuse) has locks of one machine alone.
Process 0 holds it for all processes of one run.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Self

from pdae_jax.runtime import processes

try:
    import fcntl
except ImportError:  # Windows, which has no such locks
    fcntl = None

NAME = ".lock"
_LOCKED = (errno.EACCES, errno.EAGAIN)
_held: dict[Path, tuple[int, int]] = {}  # by this process: the thread, and how often it entered
_taking = threading.Lock()


class Lock:
    """`with Lock(folder):` - ValueError, with the holder's host and process, where it is taken.

    wait: until it is released, rather than to raise. The folder is made where it is missing. One
    thread may enter again what it holds.
    """

    def __init__(self, folder: Path, *, wait: bool = False):
        self._path, self._wait = folder.resolve() / NAME, wait
        self._file: int | None = None

    def __enter__(self) -> Self:
        with processes.fail_together():
            if processes.writes():
                self._take()
        return self

    def __exit__(self, *error: object) -> None:
        if not processes.writes():
            return
        thread, entered = _held[self._path]
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()  # while it is locked: who opened it meanwhile will see that
            os.close(self._file)
            self._file = None
        if entered > 1:
            _held[self._path] = thread, entered - 1
        else:
            del _held[self._path]

    def _take(self) -> None:
        own = threading.get_ident()
        while True:
            with _taking:
                thread, entered = _held.get(self._path, (own, 0))
                if thread == own:
                    _held[self._path] = own, entered + 1
                    break
            if not self._wait:
                self._refuse(f"another thread of this process, {os.getpid()}")
            time.sleep(0.05)
        if not entered:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._lock_file()
            except BaseException:
                del _held[self._path]
                raise

    def _lock_file(self) -> None:
        if fcntl is None:
            return
        while True:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise ValueError(
                    f"{self._path.parent} cannot be written: {error.strerror}; choose another "
                    f"folder"
                ) from error
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
            except OSError as error:
                holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
                os.close(file)
                if error.errno in _LOCKED:
                    self._refuse(holder or "another process")
                print(
                    f"{self._path.parent} is on a file system without locks ({error.strerror}): "
                    f"two commands at once in it would not be noticed",
                    file=sys.stderr,
                )
                return
            if self._is_at_its_path(file):
                break
            os.close(file)  # its holder removed it between the two calls
        os.ftruncate(file, 0)
        words = f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}"
        os.pwrite(file, f"{words}\n".encode(), 0)
        self._file = file

    def _is_at_its_path(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _refuse(self, holder: str) -> None:
        raise ValueError(
            f"{self._path.parent} is being written by {holder}: wait until it has ended, or choose "
            f"another folder"
        )
