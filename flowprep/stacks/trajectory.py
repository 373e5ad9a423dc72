"""Trajectory stacking, eq. 2 of Simonyan and Zisserman (2014): every field is read where the motion has led to.

    I_tau(x, y, 2k-1) = u_{tau+k-1}(p_k)        p_1 = (x, y)
    I_tau(x, y, 2k)   = v_{tau+k-1}(p_k)        p_k = p_{k-1} + d_{tau+k-2}(p_{k-1})

The paper leaves two things open. Here fields are read bilinearly, and a point that leaves the frame goes on from the
nearest point of its border. With a temporal stride s the points follow every field, and every s-th is read. Means are
subtracted from the values that were read: the points follow the flow as it is.

Positions are float32. For frames up to 1024 px wide each step adds less than 1e-4 px of rounding, which the flow's
gradient magnifies from step to step: where that is below 0.1, ten steps stay within 1e-3 px of exact arithmetic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Stacking
from flowprep.stacks.assemble import stack_at


def trajectory_stack(
    flow: NDArray[np.float32],
    start: int,
    length: int,
    *,
    stride: int = 1,
    means: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Flow along the trajectories that start at every pixel of frame ``start``: (2L, H, W) float32 px, u1, v1, u2, ...

    ``flow`` is (N, 2, H, W) px. Given ``means`` (N, 2) px, as of :func:`~flowprep.stacks.mean_flow`, they are
    subtracted. Raises UsageError where no stack fits.
    """
    stacking = Stacking("trajectory", length, stride, mean_subtract=means is not None)
    return stack_at(stacking, start, flow, means=means)


def bidirectional_trajectory_stack(
    flow: NDArray[np.float32],
    backward: NDArray[np.float32],
    frame: int,
    length: int,
    *,
    stride: int = 1,
    means: NDArray[np.float32] | None = None,
    backward_means: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """L/2 fields along the trajectories from ``frame`` on, then L/2 along those back in time: (2L, H, W) float32 px.

    Row i of ``backward`` (N, 2, H, W) leads from frame i + 1 to frame i; its sign is kept. Otherwise as
    :func:`trajectory_stack`; ``length`` is even.
    """
    stacking = Stacking("trajectory", length, stride, bidirectional=True, mean_subtract=means is not None)
    return stack_at(stacking, frame, flow, backward, means, backward_means)
