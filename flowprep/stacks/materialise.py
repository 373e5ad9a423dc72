"""All stacks of one video, in one pass over its fields: what ``flowprep stack`` stores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flowprep import flow, opencv
from flowprep.config import Settings, StackConfig
from flowprep.errors import RefusedError, Verdict, VideoError
from flowprep.stacks import fields_needed, frames_of, of_planes, reach, stack_fields
from flowprep.stacks.resizing import resize
from flowprep.store.layout import ArrayName
from flowprep.store.rows import StoredRows
from flowprep.types import LedgerRow
from flowprep.wording import plural

SPARE_BYTES = 64 * 2**20  # for fields that come: those that stay are moved the less often
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
    maker: computes backward flow where that is not stored; None = this process does.
    """

    def __init__(
        self,
        rows: StoredRows,
        source: LedgerRow,
        settings: Settings,
        time: Timer,
        alive: Callable[[], None] = lambda: None,
        maker: BackwardFlow | None = None,
    ) -> None:
        assert settings.stack and source.flow
        self._config = settings.stack
        self._time = time
        self._fields = source.flow.length
        self._forward = _Window(_Stored(rows, source, "flow", self._config, time))
        self._backward: _Window | None = None
        if self._config.bidirectional:
            computed = self._config.backward == "frames"
            self._backward = _Window(
                _Computed(rows, source, settings, time, alive, maker or flow.configured(settings.flow))
                if computed
                else _Stored(rows, source, "flow_backward", self._config, time)
            )
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


class BackwardFlow(Protocol):
    """A flow algorithm, or something that has one elsewhere."""

    def pairs_in_a_call(self, height: int, width: int) -> int: ...

    def backward(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class _Fields(Protocol):
    """Where fields come from."""

    size: tuple[int, int]  # (width, height) px

    def load(self, first: int, last: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fields first..last-1 into ``out`` (n, 2, H, W); their means (n, 2). All in px."""
        ...


class _Window:
    """The fields that the stack at hand needs: each is loaded once while the frame goes on, and seldom moved."""

    def __init__(self, source: _Fields) -> None:
        self._source = source
        self._first = self._end = 0  # numbers of the fields at hand, the first of them at ``_at`` in the arrays
        self._at = 0
        self._fields = np.empty((0, 2, source.size[1], source.size[0]), np.float32)
        self._means = np.empty((0, 2), np.float32)

    def take(self, numbers: Sequence[int]) -> Loaded:
        """Fields by number, in that order. None may be smaller than the smallest of the last call."""
        low, high = min(numbers), max(numbers) + 1
        if len(self._fields) < high - low:  # at the first call: all stacks need as many
            field_bytes = 4 * math.prod(self._fields.shape[1:])
            spare = max(1, min(high - low, SPARE_BYTES // field_bytes))
            self._fields = np.empty((high - low + spare, *self._fields.shape[1:]), np.float32)
            self._means = np.empty((len(self._fields), 2), np.float32)
        kept = range(low, max(low, self._end))
        start = self._at + low - self._first if kept else 0
        if start + high - low > len(self._fields):
            for array in (self._fields, self._means):
                array[: len(kept)] = array[start : start + len(kept)]
            start = 0
        if high > kept.stop:
            new = slice(start + len(kept), start + high - low)
            self._means[new] = self._source.load(kept.stop, high, self._fields[new])
        self._first, self._end, self._at = low, max(high, kept.stop), start
        at = start - low
        if list(numbers) == list(range(low, high)):
            return self._fields[start : at + high], self._means[start : at + high]
        chosen = np.array(numbers) + at
        return self._fields[chosen], self._means[chosen]


class _Stored:
    """Loads stored fields at the size of the stacks."""

    def __init__(self, rows: StoredRows, source: LedgerRow, kind: str, config: StackConfig, time: Timer) -> None:
        assert source.flow
        self._rows = rows
        self._array = ArrayName.parse(source.flow.array).turned(kind)
        self._start = source.flow.start
        self.size = config.target_size() or (self._array.width, self._array.height)
        self._time = time

    def load(self, first: int, last: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        at = (self._array, self._start + first, self._start + last)
        with self._time("decode"):
            scale, zero, stats = (self._rows.side(self._array, side, *at[1:]) for side in ("scale", "zero", "stats"))
            growth = growth_of(self._array, self.size)
            px = scale * growth  # for a level, at the new size
            for i, levels in enumerate(self._rows.levels(*at)):
                for c, plane in enumerate(levels):  # each in the processor's cache; pixels of the result may be fewer
                    resize(plane.astype(np.float32), out[i, c])
                    out[i, c] -= zero[i, c]
                    out[i, c] *= px[i, c]
        means: NDArray[np.float32] = stats[:, :, 0] * growth
        return means


class _Computed:
    """Computes backward fields from the stored RGB frames, by the method of the dataset, at the size of its fields."""

    def __init__(
        self,
        rows: StoredRows,
        source: LedgerRow,
        settings: Settings,
        time: Timer,
        alive: Callable[[], None],
        algorithm: BackwardFlow,
    ) -> None:
        assert source.flow and settings.stack
        if source.frames is None:
            raise RefusedError("its RGB frames are not stored, which backward flow is to be computed from")
        self._rows = rows
        self._images = ArrayName.parse(source.frames.array)
        self._start = source.frames.start
        self._field = ArrayName.parse(source.flow.array)
        self._flow_size = (self._field.width, self._field.height)
        self.size = settings.stack.target_size() or self._flow_size
        self._time = time
        self._algorithm = algorithm
        self._alive = alive

    def load(self, first: int, last: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        means = []
        growth = growth_of(self._field, self.size)
        at_once = self._algorithm.pairs_in_a_call(*self._flow_size[::-1])
        for start in range(first, last, at_once):
            stop = min(last, start + at_once)
            with self._time("decode"):
                greys = self._greys(start, stop + 1)
            with self._time("flow"):
                fields = self._algorithm.backward(greys)
            for field, target in zip(fields, out[start - first : stop - first], strict=True):
                for plane, small, factor in zip(field, target, growth, strict=True):
                    resize(plane, small)
                    small *= factor
                means.append(field.mean(axis=(1, 2), dtype=np.float64) * growth)
            self._alive()
        return np.array(means, np.float32)

    def _greys(self, first: int, last: int) -> NDArray[np.uint8]:
        """Frames first..last-1 as grey levels at the size of the stored fields."""
        cv2 = opencv.load()
        images = self._rows.frames(self._images, self._start + first, self._start + last)
        greys = np.empty((len(images), *self._flow_size[::-1]), np.uint8)
        method = cv2.INTER_AREA if images.shape[2] > self._flow_size[1] else cv2.INTER_CUBIC
        for image, grey in zip(images, greys, strict=True):
            rgb = np.ascontiguousarray(image.transpose(1, 2, 0))
            cv2.cvtColor(cv2.resize(rgb, self._flow_size, interpolation=method), cv2.COLOR_RGB2GRAY, grey)
        return greys


def growth_of(array: ArrayName, size: tuple[int, int]) -> NDArray[np.float32]:
    """(2,): factors by which u and v grow when fields of ``array`` are resized to ``size`` (width, height) px."""
    return np.array([size[0] / array.width, size[1] / array.height], np.float32)
