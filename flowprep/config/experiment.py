"""The section ``experiment`` of a pipeline file: on which data the tables of the two-stream paper are made again."""

from __future__ import annotations

from dataclasses import dataclass

from flowprep.errors import UsageError
from flowprep.schema import setting

CROPS = (1, 2, 5, 10)
MAX_FRAMES = 1000  # of a video: more are hardly ever different ones


@dataclass(frozen=True)
class ExperimentConfig:
    """Datasets by their role in the paper, and how videos are tested."""

    ucf101: str = setting("", "Dataset of UCF-101: flow, and RGB frames for the spatial stream.")
    hmdb51: str = setting("", "Dataset of HMDB-51, likewise.")
    bidirectional: str = setting(
        "", "UCF-101 with flow in both directions, or in bidirectional stacks; default: ucf101."
    )
    leave_out: list[str] = setting([], "Classes of UCF-101 that are not added to those of HMDB-51 (table 2).")
    output: str = setting("", "Folder of the runs, each in one of its own; default: that of the section train.")
    frames: int = setting(25, "Frames, or stacks, of a video that are tested.", metavar="N")
    crops: int = setting(10, "Crops of each of them: 1, 2, 5 or 10.", metavar="N")

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MAX_FRAMES:
            raise UsageError(f"experiment.frames {self.frames}: give 1 to {MAX_FRAMES}.")
        if self.crops not in CROPS:
            raise UsageError(f"experiment.crops {self.crops}: give {', '.join(map(str, CROPS))}.")
        if len(set(self.leave_out)) < len(self.leave_out):
            raise UsageError("experiment.leave_out names a class twice.")
