"""Training: one loop for every objective, sharded, resumable, watched."""
