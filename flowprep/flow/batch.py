"""A batch of flow fields that stay where they were computed: a GPU hands out levels, a quarter of floats' bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import Verdict, VideoError


class Coding(NamedTuple):
    """How the px of N fields become levels: within [lowest, highest],

        q = rounded(v * inverse + before) + after

    with each operation rounded to float32 by itself (no fused multiply-add), so that all engines give the same levels.
    """

    inverse: NDArray[np.float32]  # (N, 2) levels per px, of u and v
    before: np.float32
    after: NDArray[np.float32]  # (N, 2)
    down: bool  # rounded down; else to the nearest, halves to the even one
    lowest: np.float32
    highest: np.float32
    dtype: str  # of the levels


class DeviceFields(ABC):
    """P fields, px, that a GPU has computed and holds until it computes the next batch.

    What is asked for is copied to memory that belongs to the caller. It depends on each field alone, and is the same
    to the last bit each time: sums are added up in a fixed order.
    """

    @abstractmethod
    def extremes(self) -> NDArray[np.float32]:
        """(P, 2, 2): minimum and maximum of u and v; for a component with a value that is not finite, not finite."""

    @abstractmethod
    def means(self) -> NDArray[np.float32]:
        """(P, 2): means of u and v, right to float32's precision whatever the size."""

    @abstractmethod
    def levels(self, coding: Coding) -> NDArray[Any]:
        """(P, 2, H, W): the fields as ``coding``, which has P rows, says. Any levels for fields that are not finite."""

    @abstractmethod
    def __getitem__(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """(len(rows), 2, H, W): the fields ``rows`` themselves."""


def too_large(height: int, width: int, needed: int, there: int, more: str = "") -> VideoError:
    """The error for frames that do not fit into the memory of a GPU; bytes. ``more``: what else helps."""
    return VideoError(
        Verdict.TOO_LARGE,
        f"a pair of {width}x{height} pixels takes {needed / 2**20:.0f} MiB of the GPU's memory, "
        f"{there / 2**20:.0f} are there for a batch; give --short-side, {more}or --backend cpu",
    )


class Chain(NamedTuple):
    """Pairs of a batch that are consecutive frames, so that they share their work frame by frame."""

    pairs: slice
    frames: NDArray[np.int32]  # (n + 1) numbers of the frames, in the order of the flow
    backward: bool  # the pairs come in the opposite order


def chains(first: NDArray[np.int32], second: NDArray[np.int32]) -> Iterator[Chain]:
    """The pairs first[i] -> second[i] of a batch, (P,) each, as runs of consecutive frames: 0 1, 1 2 or 1 0, 2 1."""
    start = 0
    while start < len(first):
        end = start + 1
        while end < len(first) and first[end] == second[end - 1]:
            end += 1
        backward = end == start + 1
        while backward and end < len(first) and second[end] == first[end - 1]:
            end += 1
        if backward:
            yield Chain(slice(start, end), np.array([*first[start:end][::-1], second[start]], np.int32), True)
        else:
            yield Chain(slice(start, end), np.array([first[start], *second[start:end]], np.int32), False)
        start = end
