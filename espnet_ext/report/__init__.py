"""From results on disk to a table that a person reads."""
