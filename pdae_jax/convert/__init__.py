"""PyTorch checkpoints: which tensor of theirs is which parameter of ours."""
