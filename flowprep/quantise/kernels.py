"""Planes of flow to levels, as machine code: one pass over memory where NumPy takes five.

Every operation rounds to float32 as NumPy's does, in the same order: the same numbers to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from flowprep.config import StorageConfig
from flowprep.flow.cpu.compiling import ensure_compiled, inline, kernel


@inline
def plane_to_levels(values, inverse, before, after, down, lowest, highest, out):
    for i in range(len(values)):
        level = values[i] * inverse + before
        level = (np.floor(level) if down else np.rint(level)) + after
        level = level if level > lowest else lowest
        level = level if level < highest else highest
        out[i] = np.int32(level)


@kernel
def to_levels(values, inverse, before, after, down, lowest, highest, out):
    """``out`` = rounded(``values`` * ``inverse`` + ``before``) + ``after``, within [``lowest``, ``highest``].

    values (N, 2L, H * W) and the numbers float32, inverse and after (N, 2) those of all u and all v; out (N, 2L, H * W)
    integers. Rounded to the nearest, or ``down``.
    """
    for n in range(len(values)):
        for c in range(values.shape[1]):
            k = c % 2
            plane_to_levels(values[n, c], inverse[n, k], before, after[n, k], down, lowest, highest, out[n, c])


def warm(say: Callable[[str], None] | None = None) -> None:
    """Have the kernel compiled for all types, once for this machine; ``say`` hears of it when it takes time."""

    def run() -> None:
        from flowprep.quantise import quantise

        nothing, blosc = np.zeros((1, 2, 1, 1), np.float32), StorageConfig("blosc")
        for storage in (StorageConfig("jpeg"), StorageConfig("htj2k"), blosc, replace(blosc, bits=8)):
            quantise(nothing, storage)

    ensure_compiled("quantise", run, say)
