"""Reads FILE, a checkpoint of 256 MB, without PyTorch and without its memory."""

import resource
import sys

sys.modules["torch"] = None  # type: ignore[assignment]

from pdae_jax.convert import conversion, torch_checkpoint, torch_file  # noqa: F401

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
file = torch_file.read(sys.argv[1])
print(file.placeholders)
assert file.value["state_dict"]["big"].shape == (64 * 2**20,)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 64 * 2**10, f"{grown} KB"
print(sorted(name for name in sys.modules if name.startswith(("torch", "pytorch_l"))))
