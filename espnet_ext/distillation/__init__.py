"""Distillation of several speech models into one transducer, in two stages (Yang et al. 2023)."""
