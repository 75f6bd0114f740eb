"""Everything that changes weights: pre-training, tuning, adapters, checkpoints, multiple processes."""
