"""Data directories, audio, features, tokens and statistics: everything before training starts."""
