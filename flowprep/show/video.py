"""Pictures of one video of a dataset: a panel of one field, a contact sheet of several, a clip of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import UsageError
from flowprep.show.panel import field_panel
from flowprep.show.sheet import contact_sheet, save_png
from flowprep.store.reader import Dataset
from flowprep.video import write_video

COLUMNS = 2  # panels side by side on a contact sheet of one video


def show_video(dataset: Dataset, video: str | int, target: Path, fields: Sequence[int], direction: str) -> int:
    """Draw ``video`` into ``target``; how many fields are drawn.

    The suffix decides: .png is a panel of one field or a contact sheet of several, .mp4 a clip with a panel a frame.
    ``fields`` are field numbers; none = the middle one for .png, all for .mp4.
    """
    row = dataset.videos[video]
    count = dataset.flow(video, 0, 0, direction=direction) is not None and row.fields
    for number in fields:
        if not 0 <= number < count:
            raise UsageError(f"{row.id} has fields 0 to {count - 1}, not {number}.")
    suffix = target.suffix.lower()
    if suffix == ".mp4":
        chosen = list(fields) or list(range(count))
        panels = _panels(dataset, video, chosen, direction, _largest(dataset, video, direction))
        write_video(target, panels, fps=max(1, round(row.fps or 25)), options={"crf": "18"})
    elif suffix == ".png":
        chosen = list(fields) or [count // 2]
        panels = _panels(dataset, video, chosen, direction, None)
        if len(chosen) == 1:
            save_png(target, next(panels))
        else:
            tiles = [(f"field {number}", panel) for number, panel in zip(chosen, panels, strict=True)]
            save_png(target, contact_sheet(tiles, COLUMNS, title=row.id, tile_width=900))
    else:
        raise UsageError(f"{target}: name a .png or .mp4 file.")
    return len(chosen)


def _panels(
    dataset: Dataset, video: str | int, fields: Sequence[int], direction: str, largest: float | None
) -> Iterator[NDArray[np.uint8]]:
    row = dataset.videos[video]
    for number in fields:
        frame = dataset.frames(video, number, number + 1)[0].transpose(1, 2, 0) if row.row.frames else None
        flow = dataset.flow(video, number, number + 1, direction=direction)[0]
        planes = dataset.levels(video, number, number + 1, direction=direction)[0]
        arrow = f"{number} -> {number + 1}" if direction == "forward" else f"{number + 1} -> {number}"
        yield field_panel(frame, flow, planes, title=f"{row.id}  frame {arrow}", max_magnitude=largest)


def _largest(dataset: Dataset, video: str | int, direction: str) -> float:
    """One colour scale for a whole clip: the magnitude that 99 % of the fields' extremes stay below, in px."""
    stats = dataset.stats(video, direction=direction)
    extremes = np.abs(stats[:, :, 1:]).max(axis=(1, 2))
    return max(1e-3, float(np.quantile(extremes, 0.99)))
