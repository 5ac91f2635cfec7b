"""Causal language models over the recogniser's tokens, ESPnet's own, for decoding."""
