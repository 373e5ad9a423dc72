"""Stacks of flow, the input of a temporal network: (2L, H, W), u1, v1, u2, v2, ...

    reach           which fields a stack is made of, and at which frames of a video one fits
    optical_flow    every field read at the same place (eq. 1 of the two-stream paper), mean flow
    trajectory      every field read along the motion (eq. 2)
    assemble        both, of fields at hand: of values in px, or of stored levels
    kernels         following the motion, as machine code
    reference       the slow, obviously right version
    materialise     all stacks of one video, to be stored
    loader          batches for training and testing; torch_loader is for PyTorch
    sampler, sources, rows, augment, batch      its parts: what is drawn, found, read, cut out and handed on

The first six know nothing of datasets: arrays in, arrays out.
"""

from flowprep.stacks.assemble import gather_levels, of_planes, stack_fields
from flowprep.stacks.optical_flow import bidirectional_flow_stack, mean_flow, optical_flow_stack
from flowprep.stacks.reach import Reach, fields_needed, frames_of, reach
from flowprep.stacks.trajectory import bidirectional_trajectory_stack, trajectory_stack

__all__ = [
    "Reach",
    "bidirectional_flow_stack",
    "bidirectional_trajectory_stack",
    "fields_needed",
    "frames_of",
    "gather_levels",
    "mean_flow",
    "of_planes",
    "optical_flow_stack",
    "reach",
    "stack_fields",
    "trajectory_stack",
]
