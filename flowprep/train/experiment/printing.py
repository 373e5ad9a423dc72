"""A table of results as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowprep.train.experiment.laboratory import Laboratory
from flowprep.train.experiment.table import Line, otherwise
from flowprep.train.paper import CAPTIONS

HEADER = ("", "row", "data", "here", "paper")


def text_of(table: str, lines: Sequence[Line], laboratory: Laboratory, *, states: bool = False) -> str:
    """The table; below it why rows were not run, what their numbers are worth, what is not the paper's, and, if asked
    for, the ``states`` of runs.
    """
    rows = [HEADER, *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    blocks = [[f"Table {table} of Simonyan and Zisserman 2014: {CAPTIONS[table]}. Accuracy on the test videos.", ""]]
    blocks[0] += [_aligned(row, widths) for row in rows]
    blocks.append(_grouped("Not run:", [(line.number, line.why_not) for line in lines]))
    blocks.append(_grouped("Warnings:", [(line.number, warning) for line in lines for warning in line.warnings]))
    blocks.append(_grouped("Other videos than the paper's:", [(line.number, line.otherwise) for line in lines]))
    if notes := otherwise(lines, laboratory):
        blocks.append(["Otherwise than in the paper:", *(f"  {note}" for note in notes)])
    if states:
        runs = list(dict.fromkeys(run for line in lines for run in line.runs))
        blocks.append(["Runs:", *(f"  {laboratory.folder(run)}: {laboratory.state(run)}" for run in runs)])
    return "\n\n".join("\n".join(block) for block in blocks if block)


def json_of(table: str, lines: Sequence[Line], laboratory: Laboratory) -> dict[str, Any]:
    """The same as values; accuracies are shares in [0, 1], None where there are none."""
    return {
        "table": table,
        "caption": CAPTIONS[table],
        "rows": [
            {
                "number": line.number,
                "row": line.result.row,
                "data": line.data,
                "splits": list(line.splits),
                "here": line.accuracy,
                "by_split": dict(zip(map(str, line.splits), line.accuracies, strict=False)),
                "paper": round(line.result.accuracy / 100, 3),
                "other_videos": line.otherwise,
                "not_run": line.why_not,
                "warnings": list(line.warnings),
                "failed": line.failed,
                "runs": [str(laboratory.folder(run)) for run in line.runs],
            }
            for line in lines
        ],
        "otherwise": otherwise(lines, laboratory),
    }


def _cells(line: Line) -> tuple[str, ...]:
    here = f"{100 * line.accuracy:.1f} %" if line.accuracy is not None else "not run"
    paper = f"{'(other videos) ' * bool(line.otherwise)}{line.result.accuracy:.1f} %"
    return str(line.number), line.result.row, line.data, here, paper


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    sides = (str.rjust, str.ljust, str.ljust, str.rjust, str.rjust)
    return "  ".join(side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)).rstrip()


def _grouped(title: str, reasons: Sequence[tuple[int, str]]) -> list[str]:
    """Rows by their reason; nothing where there is none."""
    rows: dict[str, list[int]] = {}
    for number, reason in reasons:
        if reason:
            rows.setdefault(reason.rstrip("."), []).append(number)
    if not rows:
        return []
    return [title, *(f"  {', '.join(map(str, numbers))}: {reason}." for reason, numbers in rows.items())]
