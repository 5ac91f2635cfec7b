"""Decoding: from encoder outputs to token sequences, many utterances and many hypotheses at a time."""
