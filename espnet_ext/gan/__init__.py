"""Adversarial fine-tuning: a critic on the decoder's soft outputs (Haidar & Rezagholizadeh 2021)."""
