"""Everything that changes weights: pre-training, tuning, adapters, checkpoints, several processes."""
