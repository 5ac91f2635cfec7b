"""The training loop and what it stands on: batches, schedules, checkpoints, averaging, export."""
