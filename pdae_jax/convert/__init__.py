"""PyTorch checkpoints in and out: `convert`, `export`, and `verify`, which needs PyTorch."""
