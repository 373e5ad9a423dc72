"""From videos to flow: which videos, which of their frames, which flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flowprep.config.sizes import JPEG_SIDE, MIN_SIDE, parse_size, scaled
from flowprep.errors import UsageError
from flowprep.schema import check_choices, setting

MAX_FRAMES = 10**9  # of one video: row numbers of a whole dataset must fit 64 bits
METHODS = ("tvl1", "brox", "deepflow", "dis", "farneback")
DIRECTIONS = ("forward", "backward", "both")
LAYOUTS = ("auto", "folder", "filelist", "ucf101", "hmdb51", "kinetics")


@dataclass(frozen=True)
class SourceConfig:
    """Where the videos are and who says what they show."""

    path: str = setting("", "Folder of videos (LABEL/…/NAME.avi) or list file (.txt, .csv, .tsv).", metavar="PATH")
    annotations: str = setting("", "Folder with the official UCF-101, HMDB-51 or Kinetics lists.", metavar="DIR")
    layout: str = setting("auto", "How to read the source.", choices=LAYOUTS)
    root: str = setting("", "Folder that the paths of a list file start from (default: the list's own).", metavar="DIR")


@dataclass(frozen=True)
class VideoConfig:
    """From a file to frames."""

    resize: str = setting("", "Size at which flow is computed; the aspect may change.", metavar="WxH")
    short_side: int = setting(0, "Shorter side in pixels at which flow is computed, up or down; the aspect is kept.")
    stride: int = setting(1, "Keep every S-th frame.", metavar="S")
    fps: float = setting(0.0, "Keep at most this many frames per second; a frame is never duplicated.", metavar="RATE")
    max_pixels: int = setting(36_000_000, "Refuse larger frames (width x height) before decoding them.")
    max_frames: int = setting(1_000_000, "Refuse longer videos.")

    def __post_init__(self) -> None:
        if self.resize and self.short_side:
            raise UsageError(
                "--resize and --short-side exclude each other: give one, or take the other back with --short-side 0."
            )
        if self.resize:
            self.target_size()
        if self.short_side and not MIN_SIDE <= self.short_side <= JPEG_SIDE // 2:
            raise UsageError(f"--short-side {self.short_side}: give {MIN_SIDE} to {JPEG_SIDE // 2} pixels.")
        if self.stride < 1:
            raise UsageError(f"--stride {self.stride}: give 1 (every frame) or more.")
        if self.fps < 0:
            raise UsageError(f"--fps {self.fps}: give a positive rate.")
        if self.fps and self.stride > 1:
            raise UsageError("--fps and --stride exclude each other: give one of them.")
        if self.max_pixels < MIN_SIDE**2:
            raise UsageError(f"--max-pixels {self.max_pixels}: flow needs at least {MIN_SIDE}x{MIN_SIDE} pixels.")
        if not 2 <= self.max_frames <= MAX_FRAMES:
            raise UsageError(f"--max-frames {self.max_frames}: give 2 to {MAX_FRAMES}.")

    def target_size(self) -> tuple[int, int] | None:
        """(width, height) of ``resize`` in px, or None."""
        return parse_size("--resize", self.resize)

    def flow_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in px at which flow of a video of that size is computed."""
        chosen = self.target_size()
        return (chosen[1], chosen[0]) if chosen else scaled(height, width, self.short_side)


@dataclass(frozen=True)
class FlowConfig:
    """From frames to flow."""

    method: str = setting("tvl1", "Flow method.", choices=METHODS)
    backend: str = setting(
        "",
        "What computes it: cpu, opencv, cuda or opencv-cuda, or auto: the one expected to be fastest here; "
        "default: the method's first on processors that works here. "
        "FLOWPREP_GPU_MEMORY in the environment: MiB that cuda may take of a GPU.",
        metavar="NAME",
    )
    direction: str = setting("forward", "Frame i to i+1, i+1 to i, or both.", choices=DIRECTIONS)
    parameters: dict[str, Any] = setting(
        {},
        "A parameter of the method, for example tvl1.warps=5; may be repeated.",
        metavar="M.NAME=VALUE",
        option="set",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name, value in self.parameters.items():
            if not isinstance(name, str) or not isinstance(value, str | int | float):
                raise UsageError(f"--set {self.method}.{name}: give a number, a word or true or false.")
