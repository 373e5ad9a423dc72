"""Which fields a stack is made of, and at which frames of a video one fits.

Frames and fields are numbered from 0 within a video: forward field i leads from frame i to frame i + 1, backward field
i from frame i + 1 to frame i. The fields around frame t, with L = length and s = temporal stride:

    one direction, anchor start     t, t + s, ..., t + (L-1) s
    one direction, anchor centre    the same, beginning at t - (L // 2) s
    bidirectional                   t, t + s, ..., t + (L/2-1) s forward; t-1, t-1 - s, ..., t-1 - (L/2-1) s backward

Trajectories also need every field between these, since they follow each of them.
"""

from __future__ import annotations

from typing import NamedTuple

from flowprep.config import Stacking
from flowprep.errors import UsageError


class Reach(NamedTuple):
    """The fields that one stack needs, as row numbers within its video, in the order in which they are followed."""

    forward: tuple[int, ...]  # never falling
    backward: tuple[int, ...]  # never rising; empty for stacks of one direction


def offsets(stacking: Stacking) -> tuple[range, range]:
    """Row numbers, less that of the reference frame, of the forward and of the backward fields."""
    stride = stacking.temporal_stride
    count = stacking.length // 2 if stacking.bidirectional else stacking.length
    step = 1 if stacking.kind == "trajectory" else stride
    first = -(stacking.length // 2) * stride if stacking.anchor == "centre" else 0
    span = (count - 1) * stride + 1
    backward = range(-1, -1 - span, -step) if stacking.bidirectional else range(0)
    return range(first, first + span, step), backward


def frames_of(stacking: Stacking, fields: int) -> range:
    """Reference frames at which a stack fits into a video of ``fields`` fields.

    A video that is too short has none, or, with ``short="repeat-last"``, one: the frame nearest to where one would fit
    (of stacks of both directions, the middle frame).
    """
    lowest, highest = _ends(stacking)
    frames = range(-lowest, fields - highest)
    if frames or not fields or stacking.short == "refuse":
        return frames
    frame = fields // 2 if stacking.bidirectional else min(-lowest, fields - 1)
    return range(frame, frame + 1)


def reach(stacking: Stacking, fields: int, frame: int) -> Reach:
    """The fields of the stack at ``frame`` of a video of ``fields`` fields.

    In a video that is too short, the first or last field stands for those that would lie before or after it.
    Raises UsageError where no stack fits.
    """
    frames = frames_of(stacking, fields)
    if not frames.start <= frame < frames.stop:
        raise UsageError(f"frame {frame}, length {stacking.length}: {_possible(stacking, fields, frames)}")
    forward, backward = (
        tuple(min(max(frame + offset, 0), fields - 1) for offset in half) for half in offsets(stacking)
    )
    return Reach(forward, backward)


def fields_needed(stacking: Stacking) -> int:
    """How many fields a video must have for one stack."""
    lowest, highest = _ends(stacking)
    return highest - lowest + 1


def _ends(stacking: Stacking) -> tuple[int, int]:
    """The lowest and the highest of the offsets."""
    forward, backward = offsets(stacking)
    return (backward[-1] if backward else forward[0]), forward[-1]


def _possible(stacking: Stacking, fields: int, frames: range) -> str:
    stride = f" with a temporal stride of {stacking.temporal_stride}" if stacking.temporal_stride > 1 else ""
    if frames:
        return f"a video of {fields} fields has such stacks{stride} at the frames {frames[0]} to {frames[-1]}."
    return f"a video of {fields} fields is too short, such a stack{stride} needs {fields_needed(stacking)}."
