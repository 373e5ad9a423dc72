"""Fields in this machine's memory, asked for their levels as those on a GPU are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep import quantise
from flowprep.flow.batch import Coding, DeviceFields


class HostFields(DeviceFields):
    """``flow`` (P, 2, H, W) px."""

    def __init__(self, flow: NDArray[np.float32]) -> None:
        self._flow = flow

    def extremes(self) -> NDArray[np.float32]:
        return quantise.extremes_of(self._flow)

    def means(self) -> NDArray[np.float32]:
        return quantise.means_of(self._flow)

    def levels(self, coding: Coding) -> NDArray[Any]:
        return quantise.levels_of(self._flow, coding)

    def __getitem__(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return self._flow[list(rows)]
