"""Self-supervised objectives on the recogniser's own front end and encoder: BEST-RQ and InfoNCE."""
