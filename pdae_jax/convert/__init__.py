"""PyTorch checkpoints in and out: `convert`, `export`, and `verify.verify` (which needs PyTorch)."""
from pdae_jax.convert.conversion import convert, export

__all__ = ["convert", "export"]
