"""Number formats: fp32, or bf16 where it is safe, and the parts that stay in fp32 whatever was asked for."""

import contextlib

import torch

from espnet_ext.errors import UserError

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str, device: str | torch.device) -> None:
    """Refuse a precision that the device cannot compute in.

    Raises:
        UserError: bf16 without a GPU that has it.
    """
    if precision == "bf16":
        if torch.device(device).type != "cuda":
            raise UserError("--precision bf16: only on a GPU; use --ngpu 1 or --precision fp32")
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            raise UserError(f"--precision bf16: {name} does not compute in bf16; use --precision fp32")


def autocast(precision: str, device: str | torch.device) -> contextlib.AbstractContextManager:
    """Context in which matrix products run in ``precision``; parameters and optimisers stay in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def full_precision(device: str | torch.device) -> contextlib.AbstractContextManager:
    """Context for what needs fp32 (penalties, lattices, occupancies): autocast is off inside.

    The caller casts what comes in with `.float()`.
    """
    return torch.autocast(torch.device(device).type, enabled=False)
