"""A checksum that tells models apart."""

import hashlib

import torch


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a model's parameters and buffers by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
