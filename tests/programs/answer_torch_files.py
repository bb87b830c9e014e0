"""Reads each file of FOLDER within 20 seconds and a GiB; prints its name and the answer's kind."""

import resource
import signal
import sys
from pathlib import Path

from pdae_jax.convert import torch_file

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    signal.alarm(20)  # ends the process
    try:
        torch_file.read(path)
        print(f"{path.name}: read")
    except torch_file.TorchFileError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
        print(f"{path.name}: {str(error).removeprefix(f'{path}: ')}")
