"""Data preparation of the LibriSpeech corpus (https://www.openslr.org/12)."""
