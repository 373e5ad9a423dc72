"""Geometry of a learning curve: values of a log to points of an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 348, 10, 196  # of the plot in the picture
TICKS = 5  # at most, on an axis


def plot(curve: Mapping[str, Any]) -> dict[str, Any]:
    """A curve of :func:`flowprep.train.report.runs.curves_of`, in SVG units.

    Returns ``size``, ``frame`` (left, right, top, bottom), ``lines`` (name, ``points`` for a polyline, ``dots`` where
    they are few) and the ticks ``x`` and ``y`` (position, text). Shares reach from 0 to 1, a learning rate is drawn
    by its logarithm, anything else begins at 0.
    """
    points = [point for line in curve["lines"] for point in line["points"]]
    last = max(x for x, _ in points) or 1
    scale, low, high, y_ticks = _axis(curve["title"], [y for _, y in points])

    def across(x: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * x / last, 2)

    def down(y: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (y - low) / (high - low), 2)

    def placed(line: Mapping[str, Any]) -> list[tuple[float, float]]:
        return [(across(x), down(scale(y))) for x, y in line["points"]]

    return {
        "size": (WIDTH, HEIGHT),
        "frame": (LEFT, RIGHT, TOP, BOTTOM),
        "lines": [
            {
                "name": line["name"],
                "points": " ".join(f"{x},{y}" for x, y in placed(line)),
                "dots": placed(line) if len(line["points"]) <= 2 * TICKS else [],
            }
            for line in curve["lines"]
        ],
        "x": [(across(tick), _counted(tick)) for tick in _ticks(0, last)],
        "y": [(down(position), text) for position, text in y_ticks.items()],
    }


def _axis(title: str, values: Sequence[float]) -> tuple[Callable[[float], float], float, float, dict[float, str]]:
    """The vertical axis: what is drawn of a value, the least and the greatest of that, the ticks with their texts."""
    if title == "learning rate" and min(values) > 0:
        least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        most += least == most
        exponents = range(least, most + 1, math.ceil((most - least) / TICKS))
        return math.log10, least, most, {float(exponent): f"{10.0**exponent:g}" for exponent in exponents}
    low, high = min(0.0, *values), 1.0 if title == "accuracy" else max(values)
    high = high if high > low else low + (abs(low) or 1.0)
    return float, low, high, {tick: f"{tick:g}" for tick in _ticks(low, high)}


def _ticks(low: float, high: float) -> list[float]:
    """At most TICKS + 1 round numbers from ``low`` to ``high``."""
    rough = (high - low) / TICKS or 1
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _counted(tick: float) -> str:
    return f"{tick / 1000:g}K" if tick >= 1000 else f"{tick:g}"
