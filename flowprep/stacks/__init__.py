"""Stacks of flow, the input of a temporal network: (2L, H, W), u1, v1, u2, v2, ...

    reach           which fields a stack is made of, and at which frames of a video one fits
    optical_flow    every field read at the same place (eq. 1 of the two-stream paper), mean flow
    trajectory      every field read along the motion (eq. 2)
    assemble        both, of fields at hand: of values in px, or of stored levels
    kernels         following the motion, as machine code
    reference       the slow, obviously right version
    materialise     all stacks of one video, to be stored
    resizing        planes of flow at another size
    loader          batches for training and testing; torch_loader is for PyTorch
    sampler, sources, augment, normalising, batch       its parts: what is drawn, read, cut out, brought to zero mean
                    and handed on
    recycling       memory of batches that nobody uses any more

The first six know nothing of datasets: arrays in, arrays out.
"""

from flowprep.config import Stacking
from flowprep.stacks.assemble import gather_levels, of_planes, stack_fields
from flowprep.stacks.augment import TSN_SCALES, Augmentation, Jitter, ten_crops
from flowprep.stacks.loader import StackLoader
from flowprep.stacks.normalising import IMAGENET, Normalisation
from flowprep.stacks.optical_flow import bidirectional_flow_stack, mean_flow, optical_flow_stack
from flowprep.stacks.reach import Reach, fields_needed, frames_of, reach
from flowprep.stacks.sampler import Sampler
from flowprep.stacks.trajectory import bidirectional_trajectory_stack, trajectory_stack

__all__ = [
    "IMAGENET",
    "TSN_SCALES",
    "Augmentation",
    "Jitter",
    "Normalisation",
    "Reach",
    "Sampler",
    "StackLoader",
    "Stacking",
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
    "ten_crops",
    "trajectory_stack",
]
