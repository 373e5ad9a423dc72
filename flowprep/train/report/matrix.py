"""Geometry of a confusion matrix, in SVG units that are CSS pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from flowprep.train.report.names import shown

COUNTED = 12  # classes up to which there is room for numbers in the cells
WIDEST = 900  # px, of a matrix without names
LONGEST = 22  # letters of a name beside it
LETTER = 0.62  # width of a letter, of its size, on average


class _Size(NamedTuple):
    cell: float  # px
    type: float  # px, of the names; 0 = none


def _size(classes: int) -> _Size:
    if classes <= COUNTED:
        return _Size(40, 13)
    if classes <= 60:
        return _Size(16, 11)
    if classes <= 110:
        return _Size(9, 7.5)
    return _Size(WIDEST / classes, 0)


def matrix(confusion: Mapping[str, Any]) -> dict[str, Any]:
    """What is drawn of :func:`flowprep.train.report.tables.confusion_table`.

    Returns ``cell``, ``margin`` and ``side`` of the field, ``names`` (text, middle of the row), their ``type`` size,
    ``counted``: whether there is room for numbers, and for every count that is not zero its place and ``title``.
    """
    names, counts = confusion["classes"], confusion["counts"]
    cell, type_size = _size(len(names))
    beside = [shown(name, LONGEST) for name in names]
    margin = round(max(map(len, beside)) * LETTER * type_size) + 12
    return {
        "cell": cell,
        "margin": margin,
        "side": round(len(names) * cell, 2),
        "type": type_size,
        "counted": len(names) <= COUNTED,
        "names": [(name, margin + (row + 0.5) * cell) for row, name in enumerate(beside) if type_size],
        "cells": [
            {
                "x": x,
                "y": y,
                "times": times,
                "opacity": round(0.12 + 0.88 * times / sum(row), 2),
                "title": _title(names[y], names[x], times, sum(row)),
            }
            for y, row in enumerate(counts)
            for x, times in enumerate(row)
            if times
        ],
    }


def _title(true: str, taken_for: str, times: int, videos: int) -> str:
    what = "right" if true == taken_for else f"taken for {shown(taken_for, 40)}"
    return f"{shown(true, 40)}: {times} of {videos} {what}"
