"""The stacks of one video, as panels: stored ones, and stacks of trajectories made on the spot from stored fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Stacking
from flowprep.errors import FlowprepError, UsageError
from flowprep.show.choice import Choice
from flowprep.show.stack_panel import StackView, stack_panel
from flowprep.stacks import frames_of, of_planes, reach, stack_fields
from flowprep.store.reader import Dataset


class StoredStacks:
    """The stacks of a video of a dataset of stacks."""

    unit = counted = "stack"

    def __init__(self, dataset: Dataset, video: str | int, choice: Choice) -> None:
        assert dataset.settings.stack
        choice.allow("datasets of stacks", "stack", "frame", "every")
        self._dataset, self._video = dataset, video
        self._row = dataset.videos[video]
        self._stacking = dataset.settings.stack
        self._frames = dataset.stack_frames(video)
        self._origin = _origin(dataset, video)
        self.numbers = range(len(self._frames))
        for frame in choice.frame:
            if not 0 <= frame < self._row.row.frames_decoded:
                raise UsageError(f"{self._row.id} has frames 0 to {self._row.row.frames_decoded - 1}, not {frame}.")
        nearest = [int(np.abs(self._frames - frame).argmin()) for frame in choice.frame]
        self.chosen = choice.chosen(self.numbers, choice.stack or nearest, f"{self._row.id} has stacks")
        gap = float(np.diff(self._frames).mean()) if len(self._frames) > 1 else 1.0
        self.fps = self._row.fps / gap

    def largest(self) -> float:
        """px: what the colours of 99 % of the stacks end at."""
        return float(np.quantile([self._view(number).colour_end() for number in self.numbers], 0.99))

    def panel(self, number: int, max_magnitude: float | None) -> NDArray[np.uint8]:
        return stack_panel(self._view(number), max_magnitude)

    def _view(self, number: int) -> StackView:
        frame = int(self._frames[number])
        fields = self._row.row.frames_decoded - 1
        steps = _steps(self._stacking, fields, frame)
        begin = steps[0][0]
        image = None
        if self._origin:
            image = self._origin.frames(self._row.id, begin, begin + 1)[0].transpose(1, 2, 0)
        return StackView(
            title=f"{self._row.id}  stack {number} (0 to {self.numbers[-1]}), frame {frame}",
            stacking=self._stacking,
            frame=frame,
            steps=steps,
            planes=self._dataset.stacks(self._video, number, number + 1)[0],
            means=self._dataset.stack_means(self._video, number, number + 1)[0],
            first_frame=image,
        )


class BuiltStacks:
    """Stacks of trajectories of a video of a dataset of flow, as ``flowprep stack`` makes them, numbered by frame."""

    unit, counted = "stack", "frame"

    def __init__(self, dataset: Dataset, video: str | int, choice: Choice) -> None:
        choice.allow("pictures of trajectories", "trajectories", "frame", "every", "length", "bidirectional")
        length = Stacking.length if choice.length is None else choice.length
        self._stacking = Stacking("trajectory", length, bidirectional=choice.bidirectional)
        self._dataset, self._video = dataset, video
        self._row = dataset.videos[video]
        for direction in ("forward", "backward")[: 1 + choice.bidirectional]:
            dataset.flow(video, 0, 0, direction=direction)  # says what is wrong with the video or the direction
        self.numbers = frames_of(self._stacking, self._row.fields)
        if not self.numbers:
            raise UsageError(
                f"{self._row.id} has {self._row.fields} fields, too few for a stack of {length}: "
                "give a smaller --length."
            )
        self.chosen = choice.chosen(
            self.numbers, choice.frame, f"{self._row.id} has stacks of {length} fields at the frames"
        )
        self.fps = self._row.fps

    def largest(self) -> float:
        """px: the magnitude that 99 % of the fields' extremes stay below."""
        stats = self._dataset.stats(self._video)
        return float(np.quantile(np.abs(stats[:, :, 1:]).max(axis=(1, 2)), 0.99))

    def panel(self, number: int, max_magnitude: float | None) -> NDArray[np.uint8]:
        rows = reach(self._stacking, self._row.fields, number)
        forward, means = self._fields(rows.forward, "forward")
        backward, backward_means = self._fields(rows.backward, "backward") if rows.backward else (None, None)
        stack = stack_fields(self._stacking, forward, backward, means=means, backward_means=backward_means)
        image = None
        if self._row.row.frames:
            image = self._dataset.frames(self._video, number, number + 1)[0].transpose(1, 2, 0)
        view = StackView(
            title=f"{self._row.id}  frame {number}",
            stacking=self._stacking,
            frame=number,
            steps=_steps(self._stacking, self._row.fields, number),
            planes=stack,
            means=of_planes(self._stacking, means, backward_means),
            first_frame=image,
        )
        return stack_panel(view, max_magnitude)

    def _fields(self, numbers: tuple[int, ...], direction: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fields (n, 2, H, W) and their means (n, 2), px, in that order."""
        low, high = min(numbers), max(numbers) + 1
        order = np.array(numbers) - low
        flow = self._dataset.flow(self._video, low, high, direction=direction)
        stats = self._dataset.stats(self._video, low, high, direction=direction)
        return flow[order], stats[order, :, 0]


def _steps(stacking: Stacking, fields: int, frame: int) -> tuple[tuple[int, int], ...]:
    """From which frame to which the fields of a stack lead that are read."""
    rows = reach(stacking, fields, frame)
    every = stacking.temporal_stride if stacking.kind == "trajectory" else 1  # trajectories follow those between, too
    forward = [(i, i + 1) for i in rows.forward[::every]]
    backward = [(i + 1, i) for i in rows.backward[::every]]
    return (*forward, *backward)


def _origin(dataset: Dataset, video: str | int) -> Dataset | None:
    """The dataset that the stacks were made from, if it is still there and has RGB frames of this very video."""
    row = dataset.videos[video]
    for _ in dataset.settings.origins:  # stacks may have been transcoded since
        try:
            dataset = Dataset(Path(dataset.plans[-1].root))
        except FlowprepError:
            return None
        if not dataset.settings.stack:
            break
    there = next((other for other in dataset.videos if other.id == row.id), None)
    same = there and (there.row.sha256, there.fields + 1) == (row.row.sha256, row.row.frames_decoded)
    return dataset if there and same and there.row.frames else None
