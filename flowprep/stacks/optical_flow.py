"""Optical flow stacking, eq. 1 of Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in
Videos" (2014): every field is read at the same place.

    I_tau(x, y, 2k-1) = u_{tau+k-1}(x, y)
    I_tau(x, y, 2k)   = v_{tau+k-1}(x, y)        k = 1 ... L

Mean subtraction takes from each field its own mean vector, a crude compensation of camera motion. The mean is that of
the whole field, not of a window that is cut from it later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Stacking
from flowprep.stacks.assemble import stack_at


def optical_flow_stack(
    flow: NDArray[np.float32],
    start: int,
    length: int,
    *,
    stride: int = 1,
    means: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The fields start, start + stride, ... of ``flow`` (N, 2, H, W) px: (2L, H, W) float32, u1, v1, u2, v2, ...

    Given ``means`` (N, 2) px, as of :func:`mean_flow`, they are subtracted. Raises UsageError where no stack fits.
    """
    stacking = Stacking("flow", length, stride, mean_subtract=means is not None)
    return stack_at(stacking, start, flow, means=means)


def bidirectional_flow_stack(
    flow: NDArray[np.float32],
    backward: NDArray[np.float32],
    frame: int,
    length: int,
    *,
    stride: int = 1,
    means: NDArray[np.float32] | None = None,
    backward_means: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """L/2 forward fields from ``frame`` on, then L/2 backward fields from ``frame`` outwards: (2L, H, W) float32 px.

    Row i of ``backward`` (N, 2, H, W) leads from frame i + 1 to frame i; its sign is kept. Otherwise as
    :func:`optical_flow_stack`; ``length`` is even.
    """
    stacking = Stacking("flow", length, stride, bidirectional=True, mean_subtract=means is not None)
    return stack_at(stacking, frame, flow, backward, means, backward_means)


def mean_flow(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean vector of each field of ``flow`` (N, 2, H, W): (N, 2) float32 px, summed in float64."""
    means: NDArray[np.float64] = flow.mean(axis=(2, 3), dtype=np.float64)
    return means.astype(np.float32)
