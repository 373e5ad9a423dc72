"""Where a network computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from flowprep.errors import UsageError


def choose_device(name: str = "", local_rank: int = 0) -> torch.device:
    """The device that ``name`` means: "cpu", "cuda", "cuda:1"; "" is a GPU where there is one.

    local_rank: of the processes of this machine, each with a GPU of its own; "cuda" is the GPU of that number.
    Raises UsageError where there is no such device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = name or ("cuda" if gpus else "cpu")
    kind, colon, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise UsageError(f"device {name!r}: give cpu, cuda, or a certain GPU as in cuda:1.")
    wanted = int(number) if colon else local_rank
    if wanted >= gpus:
        seen = f"PyTorch sees {gpus} here" if gpus else "PyTorch sees none here; give --device cpu"
        raise UsageError(f"device {name}: there is no GPU number {wanted}, {seen}.")
    return torch.device("cuda", wanted)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Where convolutions and matrix products are computed in ``precision``: "float32", "bfloat16", or "auto".

    Weights stay float32. Each use needs a new context.
    """
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def memory_format(device: torch.device) -> torch.memory_format:
    """How images lie in memory for the fastest convolutions."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
