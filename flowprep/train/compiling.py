"""Compiled networks, and whether they learn what the network as it is would learn.

Of what compilers make of a network, a wrong gradient is the fault that nobody sees: training goes on, and is worse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from flowprep.errors import RefusedError, UsageError

FACTOR = 10.0  # bfloat16 alone changes the length of a deep network's gradients up to threefold
NOTHING = 1e-6  # of the longest gradient: below that it is rounding


def compiled(network: nn.Module, device: torch.device) -> Callable[[torch.Tensor], Any]:
    """``network``, compiled at its first call; what dropout draws is as if it were not.

    Raises UsageError for a CPU, for which PyTorch compiles max pooling behind a convolution so that no gradient comes
    through (PyTorch 2.13, its compiler inductor).
    """
    if device.type == "cpu":
        raise UsageError(
            "solver.compile: on a CPU, PyTorch's compiler leaves convolutions without a gradient. Leave it out, or "
            "give a GPU."
        )
    forward: Callable[[torch.Tensor], Any] = torch.compile(network, options={"fallback_random": True})
    return forward


def check_gradients(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Raises RefusedError where a gradient of the compiled network is much shorter or longer than ``expected``."""
    lengths = {name: (gradient.norm().item(), found[name].norm().item()) for name, gradient in expected.items()}
    least = NOTHING * max(before for before, _ in lengths.values())
    for name, (before, after) in lengths.items():
        if before > least and not before / FACTOR < after < before * FACTOR:
            raise RefusedError(
                f"solver.compile: compiled by PyTorch {torch.__version__}, {name} has a gradient of length "
                f"{after:.3g}, and of {before:.3g} otherwise: train without it."
            )
