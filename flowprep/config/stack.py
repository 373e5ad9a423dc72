"""From fields to stacks, the input of a temporal network."""

from __future__ import annotations

from dataclasses import dataclass

from flowprep.config.sizes import parse_size
from flowprep.config.source import MAX_FRAMES
from flowprep.errors import UsageError
from flowprep.schema import check_choices, setting

STACK_KINDS = ("flow", "trajectory")
ANCHORS = ("start", "centre")
SHORT = ("refuse", "repeat-last")
BACKWARD = ("stored", "frames")
MAX_LENGTH = 32  # fields in a stack
MAX_STRIDE = 100  # fields from one to the next: longer ago than any motion can be followed


@dataclass(frozen=True)
class Stacking:
    """How the fields around a frame become one input of 2L channels (two-stream paper, section 3)."""

    kind: str = setting(
        "flow",
        "flow: every field read at the same place (eq. 1); trajectory: along the motion (eq. 2).",
        choices=STACK_KINDS,
    )
    length: int = setting(10, f"Number L of fields in a stack, 1 to {MAX_LENGTH}; it has 2L channels.", metavar="L")
    temporal_stride: int = setting(1, "Take every S-th field; trajectories follow those between, too.", metavar="S")
    bidirectional: bool = setting(False, "Half of the fields forward from the frame, half backward; an even length.")
    mean_subtract: bool = setting(True, "Subtract from each field its own mean vector, that of the original floats.")
    anchor: str = setting("start", "Where the frame lies in a stack of one direction.", choices=ANCHORS)
    short: str = setting(
        "refuse", "Videos with too few fields: refuse them, or repeat their last field.", choices=SHORT
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.length <= MAX_LENGTH:
            raise UsageError(f"stack.length {self.length}: give 1 to {MAX_LENGTH} fields.")
        if not 1 <= self.temporal_stride <= MAX_STRIDE:
            raise UsageError(f"stack.temporal_stride {self.temporal_stride}: give 1 (every field) to {MAX_STRIDE}.")
        if self.bidirectional and self.length % 2:
            raise UsageError(f"stack.length {self.length}: half of it is for each direction, so give an even number.")
        if self.bidirectional and self.anchor != "start":
            raise UsageError("stack.anchor is for stacks of one direction: those of both have the frame in the middle.")


@dataclass(frozen=True)
class StackConfig(Stacking):
    """Which stacks of a video are stored, and at what size."""

    every: int = setting(
        0, "A stack every N frames; 0 = as many as it has fields, so that stacks follow each other.", metavar="N"
    )
    per_video: int = setting(0, "N stacks in each video, evenly spaced, instead of --every.", metavar="N")
    backward: str = setting(
        "",
        "Bidirectional: backward fields as stored, or computed from the RGB frames. Default: stored if there.",
        choices=("", *BACKWARD),
        metavar="|".join(BACKWARD),
    )
    size: str = setting("", "Size of the stacks; fields are resized to it before. Default: as stored.", metavar="WxH")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every and self.per_video:
            raise UsageError("--every and --per-video exclude each other: give one of them.")
        for name in ("every", "per_video"):
            if not 0 <= getattr(self, name) <= MAX_FRAMES:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 to {MAX_FRAMES}.")
        if self.backward and not self.bidirectional:
            raise UsageError(f"--backward {self.backward} is for stacks of both directions: add --bidirectional.")
        self.target_size()

    def target_size(self) -> tuple[int, int] | None:
        """(width, height) of ``size`` in px, or None."""
        return parse_size("--size", self.size)
