"""The fields of one video of a dataset, as panels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flowprep.show.choice import Choice
from flowprep.show.panel import field_panel
from flowprep.store.reader import Dataset


class Fields:
    """The fields of one direction: forward where nothing is asked for and both are stored."""

    unit = counted = "field"

    def __init__(self, dataset: Dataset, video: str | int, choice: Choice) -> None:
        choice.allow("pictures of fields", "field", "every", "direction", "trajectories")
        stored = dataset.settings.flow.direction
        self._dataset, self._video = dataset, video
        self._direction = choice.direction or ("backward" if stored == "backward" else "forward")
        self._row = dataset.videos[video]
        dataset.flow(video, 0, 0, direction=self._direction)  # says what is wrong with the video or the direction
        self.numbers = range(self._row.fields)
        self.chosen = choice.chosen(self.numbers, choice.field, f"{self._row.id} has fields")
        self.fps = self._row.fps

    def largest(self) -> float:
        """px: the magnitude that 99 % of the fields' extremes stay below."""
        stats = self._dataset.stats(self._video, direction=self._direction)
        return float(np.quantile(np.abs(stats[:, :, 1:]).max(axis=(1, 2)), 0.99))

    def panel(self, number: int, max_magnitude: float | None) -> NDArray[np.uint8]:
        dataset, at = self._dataset, (self._video, number, number + 1)
        frame = dataset.frames(*at)[0].transpose(1, 2, 0) if self._row.row.frames else None
        flow = dataset.flow(*at, direction=self._direction)[0]
        planes = dataset.levels(*at, direction=self._direction)[0]
        arrow = f"{number} -> {number + 1}" if self._direction == "forward" else f"{number + 1} -> {number}"
        return field_panel(frame, flow, planes, title=f"{self._row.id}  frame {arrow}", max_magnitude=max_magnitude)
