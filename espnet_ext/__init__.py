"""Training of speech recognisers beyond plain supervision, on top of ESPnet."""

__version__ = "0.1.0"
