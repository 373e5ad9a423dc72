"""Pictures of one video of a dataset: a panel of one field or stack, a contact sheet of several, a clip of all."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError
from flowprep.show.choice import Choice
from flowprep.show.fields import Fields
from flowprep.show.sheet import contact_sheet, save_png
from flowprep.show.stacks import BuiltStacks, StoredStacks
from flowprep.store.reader import Dataset
from flowprep.video import write_video
from flowprep.wording import plural

COLUMNS = 2  # panels side by side on a contact sheet of one video
TILE_WIDTH = 900  # px
MAX_TILES = 100  # of a sheet: with more, it is too large to look at


class Series(Protocol):
    """What can be drawn of one video: numbered panels of one size."""

    unit: str  # what a panel shows: "field", "stack"
    counted: str  # what its numbers are of: "field", "stack", "frame"
    numbers: range  # all there are, at least one
    chosen: list[int]  # those that were asked for; empty = it is left to us
    fps: float  # of a clip of all; 0 = unknown

    def largest(self) -> float:
        """One colour scale for a whole clip, px."""

    def panel(self, number: int, max_magnitude: float | None) -> NDArray[np.uint8]:
        """A picture of one; colours end at ``max_magnitude`` px, or at its own largest."""


def show_video(dataset: Dataset, video: str | int, target: Path, choice: Choice) -> str:
    """Draw ``video`` into ``target``; what was drawn, as ``"3 stacks"``.

    The suffix decides: .png is a panel of one field or stack, or a contact sheet of several, .mp4 a clip with a panel a
    frame. Without a choice the middle one is drawn for .png, all for .mp4. Raises UsageError for a choice that the
    dataset has no answer to, RefusedError for a video of which nothing is stored.
    """
    suffix = target.suffix.lower()
    if suffix not in (".png", ".mp4"):
        raise UsageError(f"{target}: name a .png or .mp4 file.")
    series: Series
    if dataset.settings.stack:
        series = StoredStacks(dataset, video, choice)
    elif choice.trajectories:
        series = BuiltStacks(dataset, video, choice)
    else:
        series = Fields(dataset, video, choice)
    if suffix == ".mp4":
        numbers = series.chosen or list(series.numbers)
        full = max(1e-3, series.largest())
        panels = (series.panel(number, full) for number in numbers)
        write_video(target, panels, fps=max(1, round(series.fps or 25)), options={"crf": "18"})
    elif len(numbers := series.chosen or [series.numbers[len(series.numbers) // 2]]) == 1:
        save_png(target, series.panel(numbers[0], None))
    elif len(numbers) > MAX_TILES:
        raise UsageError(
            f"{target}: {plural(len(numbers), series.unit)} on one sheet, {MAX_TILES} is the most: "
            "choose fewer, or name an .mp4 file."
        )
    else:
        tiles = [(f"{series.counted} {number}", series.panel(number, None)) for number in numbers]
        height, width = tiles[0][1].shape[:2]
        box = TILE_WIDTH * max(height, width) // width
        save_png(target, contact_sheet(tiles, COLUMNS, title=dataset.videos[video].id, tile_width=box))
    return plural(len(numbers), series.unit)
