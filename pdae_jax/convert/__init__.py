"""PyTorch checkpoints in and out: `convert`, `export`, and `verify.verify` (which needs PyTorch)."""
