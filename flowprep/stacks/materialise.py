"""All stacks of one video, in one pass over its fields: what ``flowprep stack`` stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from flowprep import flow, opencv
from flowprep.config import Settings, StackConfig
from flowprep.errors import Verdict, VideoError
from flowprep.stacks import fields_needed, frames_of, of_planes, reach, stack_fields
from flowprep.store.layout import ArrayName
from flowprep.store.rows import StoredRows
from flowprep.types import LedgerRow
from flowprep.wording import plural

Loaded = tuple[NDArray[np.float32], NDArray[np.float32]]  # fields (n, 2, H, W) and their means (n, 2), px
Timer = Callable[[str], AbstractContextManager[None]]  # takes the CPU time of a stage


def chosen_frames(config: StackConfig, fields: int) -> list[int]:
    """The frames whose stacks are stored, of a video of so many fields."""
    possible = frames_of(config, fields)
    if config.per_video == 1:
        return list(possible[len(possible) // 2 :][:1])
    if config.per_video and possible:
        return sorted({int(frame) for frame in np.linspace(possible[0], possible[-1], config.per_video)})
    return list(possible[:: config.every or config.length])


class VideoStacks:
    """The stacks of one video of a dataset.

    Parameters
    ----------
    rows: of the dataset.
    source: the video's row in it.
    settings: of the dataset of stacks.
    time: takes the CPU time of the stages decode, flow and stack.
    alive: called now and then while a stack is in the making.
    """

    def __init__(
        self,
        rows: StoredRows,
        source: LedgerRow,
        settings: Settings,
        time: Timer,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        assert settings.stack and source.flow
        self._config = settings.stack
        self._time = time
        self._fields = source.flow.length
        self._forward = _Window(_Stored(rows, source, "flow", self._config, time))
        self._backward: _Window | None = None
        if self._config.bidirectional:
            computed = self._config.backward == "frames"
            maker = _Computed(rows, source, settings, time, alive) if computed else None
            self._backward = _Window(maker or _Stored(rows, source, "flow_backward", self._config, time))
        self.note = ""  # what was made up of them

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
        """Frame, stack (2L, H, W), and the mean (2L,) of the field that each channel was taken from; all in px.

        Raises VideoError (too_short) for a video that has not one.
        """
        config = self._config
        frames = chosen_frames(config, self._fields)
        if not frames:
            raise VideoError(
                Verdict.TOO_SHORT,
                f"it has {plural(self._fields, 'field')}, a stack needs {fields_needed(config)}; "
                "another dataset with --short repeat-last would repeat the last one",
            )
        for frame in frames:
            needed = reach(config, self._fields, frame)
            if len(set(needed.forward)) < len(needed.forward) or len(set(needed.backward)) < len(needed.backward):
                self.note = f"{plural(self._fields, 'field')}, a stack needs {fields_needed(config)}: some are repeated"
            forward, means = self._forward.take(needed.forward)
            backward, backward_means = self._backward.take(needed.backward) if self._backward else (None, None)
            with self._time("stack"):
                stack = stack_fields(config, forward, backward, means=means, backward_means=backward_means)
            yield frame, stack, of_planes(config, means, backward_means)


class _Window:
    """The fields that the stack at hand needs: each is loaded once while the frame goes on."""

    def __init__(self, load: Callable[[int, int], Loaded]) -> None:
        self._load = load
        self._first = self._end = 0  # numbers of the fields at hand
        self._fields: NDArray[np.float32] | None = None
        self._means: NDArray[np.float32] | None = None

    def take(self, numbers: Sequence[int]) -> Loaded:
        """Fields by number, in that order. None may be smaller than the smallest of the last call."""
        low, high = min(numbers), max(numbers) + 1
        if self._fields is None or self._means is None or low >= self._end:
            self._fields, self._means = self._load(low, high)
        else:
            self._fields, self._means = self._fields[low - self._first :], self._means[low - self._first :]
            if high > self._end:
                fields, means = self._load(self._end, high)
                self._fields = np.concatenate([self._fields, fields])
                self._means = np.concatenate([self._means, means])
        self._first, self._end = low, low + len(self._fields)
        if list(numbers) == list(range(low, self._end)):
            return self._fields, self._means
        at = np.array(numbers) - low
        return self._fields[at], self._means[at]


class _Stored:
    """Loads stored fields at the size of the stacks."""

    def __init__(self, rows: StoredRows, source: LedgerRow, kind: str, config: StackConfig, time: Timer) -> None:
        assert source.flow
        self._rows = rows
        self._array = ArrayName.parse(source.flow.array).turned(kind)
        self._start = source.flow.start
        self._size = config.target_size()
        self._time = time

    def __call__(self, first: int, last: int) -> Loaded:
        at = (self._array, self._start + first, self._start + last)
        with self._time("decode"):
            means = self._rows.side(self._array, "stats", *at[1:])[:, :, 0]
            return resized(self._rows.flow(*at), means, self._size)


class _Computed:
    """Computes backward fields from the stored RGB frames, by the method of the dataset, at the size of its fields."""

    def __init__(
        self, rows: StoredRows, source: LedgerRow, settings: Settings, time: Timer, alive: Callable[[], None]
    ) -> None:
        assert source.frames and source.flow and settings.stack
        self._rows = rows
        self._images = ArrayName.parse(source.frames.array)
        self._start = source.frames.start
        field = ArrayName.parse(source.flow.array)
        self._flow_size = (field.width, field.height)
        self._size = settings.stack.target_size()
        self._time = time
        chosen = settings.flow
        self._algorithm = flow.get(chosen.method, chosen.backend, **chosen.parameters)
        self._alive = alive

    def __call__(self, first: int, last: int) -> Loaded:
        parts = []
        at_once = self._algorithm.pairs_in_a_second(*self._flow_size[::-1])
        for start in range(first, last, at_once):
            parts.append(self._part(start, min(last, start + at_once)))
            self._alive()
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _part(self, first: int, last: int) -> Loaded:
        cv2 = opencv.load()
        with self._time("decode"):
            images = self._rows.frames(self._images, self._start + first, self._start + last + 1)
            greys = np.empty((len(images), *self._flow_size[::-1]), np.uint8)
            for image, grey in zip(images, greys, strict=True):
                small = cv2.resize(
                    np.ascontiguousarray(image.transpose(1, 2, 0)),
                    self._flow_size,
                    interpolation=cv2.INTER_AREA if image.shape[1] > self._flow_size[1] else cv2.INTER_CUBIC,
                )
                cv2.cvtColor(small, cv2.COLOR_RGB2GRAY, grey)
        with self._time("flow"):
            fields = self._algorithm.backward(greys)
            means = fields.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
        with self._time("decode"):
            return resized(fields, means, self._size)


def resized(fields: NDArray[np.float32], means: NDArray[np.float32], size: tuple[int, int] | None) -> Loaded:
    """Fields (n, 2, H, W) and means (n, 2) at ``size`` (width, height) px: values grow and shrink with the axes.

    Bilinear; area average where an axis shrinks to less than half, of which bilinear sampling would leave values out.
    """
    height, width = fields.shape[2:]
    if size is None or size == (width, height):
        return fields, means
    cv2 = opencv.load()
    factors = (size[0] / width, size[1] / height)  # of u and of v
    method = cv2.INTER_AREA if min(factors) < 0.5 else cv2.INTER_LINEAR
    out = np.empty((len(fields), 2, size[1], size[0]), np.float32)
    for field, target in zip(fields, out, strict=True):
        for component in range(2):
            cv2.resize(field[component], size, target[component], interpolation=method)
            target[component] *= factors[component]
    return out, means * np.array(factors, np.float32)
