"""Memory and schedules for the sizes of frames that came last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import cuda
from numpy.typing import DTypeLike

from flowprep.flow.cuda.fields import FieldsMemory
from flowprep.flow.cuda.memory import Arena
from flowprep.flow.cuda.solver import Batch, Solver

FRAMES_A_PAIR = 2  # that a batch has room for: requests for one pair each may come together
KEPT = 64  # sizes: what stays of each is up to half a MB
PADDING = 2**16  # bytes: what arrays are padded by


class Workspace(NamedTuple):
    """Everything on the device for frames of one size and dtype, and at most so many pairs."""

    pairs: int
    batch: Batch
    fields: FieldsMemory
    solver: Solver


class Workspaces:
    """They have one piece of memory, each all of it: a batch is done with it before the next one begins, on one stream.

    Only the tables of each stay. So frames of a size that has been there cost nothing but their copy.
    """

    def __init__(self, make: Callable[[Batch, Arena, Any], Solver]) -> None:
        """``make``: a solver from its arrays, where it gets more of them, and the stream."""
        self.stream = cuda.stream()
        self._make = make
        self._arena = Arena()
        self._kept: dict[tuple[int, int, str], Workspace] = {}  # the last used is the last

    def get(self, height: int, width: int, dtype: DTypeLike, *, needed: int, most: int, each: int) -> Workspace:
        """For ``needed`` pairs, or up to ``most`` where the GPU has that memory; ``each``: bytes of a pair.

        Raises MemoryError where the GPU has not enough for those that are needed.
        """
        key = height, width, str(np.dtype(dtype))
        found = self._kept.pop(key, None)
        if found is None or found.pairs < needed:
            pairs = self._begin(needed, most, each)
            frames = self._arena.array((FRAMES_A_PAIR * pairs, height, width), dtype)
            first, second = (self._arena.array(pairs, np.int32) for _ in range(2))
            fields = FieldsMemory(pairs, height, width, self._arena)
            batch = Batch(frames, first, second, fields.flow)
            found = Workspace(pairs, batch, fields, self._make(batch, self._arena, self.stream))
        self._kept[key] = found
        return found

    def _begin(self, needed: int, most: int, each: int) -> int:
        """Have memory for as many pairs as can be."""
        pairs = most
        while True:
            size = PADDING + pairs * each
            if size > self._arena.size:
                self._kept.clear()  # they lie in the memory that goes
            elif len(self._kept) == KEPT:
                del self._kept[next(iter(self._kept))]
            try:
                self._arena.clear(size)
            except MemoryError:
                if pairs == needed:
                    raise
                pairs = max(needed, pairs // 2)  # others have taken memory since most was said
            else:
                return pairs
