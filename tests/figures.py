"""The table of measured figures in docs/reliability.md: system tests fill its last column.

A test that measures asks for the fixture ``figure`` and calls it with the id of a row and one short text:

    def test_a_thousand_kills(figure): ...; figure("R1", f"{kills} kills, 0 videos lost")

When a system run ends, the rows of the tests that passed are rewritten in place; all others keep their text.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

PAGE = Path(__file__).parents[1] / "docs/reliability.md"
TABLE = re.compile(r"(?<=<!-- figures -->\n)(?P<machine>.*)\n\n(?P<table>(?:\|.*\|\n)+)(?=<!-- end of figures -->)")
PROPERTY = "figure"  # key of a figure among the user properties of a test report


class Row(NamedTuple):
    """One row of the table."""

    id: str  # "R5", or "R6a" and "R6b" where one number has several tests
    test: str  # "tests/reliability/test_fuzz.py::test_name", in backticks
    target: str
    measured: str


def rows(page: str) -> dict[str, Row]:
    """The rows of the table by id, in order; raises AssertionError for a page without one."""
    found = TABLE.search(page)
    assert found, f"{PAGE.name} has no table between <!-- figures --> and <!-- end of figures -->"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found["table"].splitlines()[2:]]
    listed = [Row(*row) for row in cells]
    assert len({row.id for row in listed}) == len(listed), "an id stands in two rows"
    return {row.id: row for row in listed}


def with_figures(page: str, measured: dict[str, str], where: str) -> str:
    """``page`` with the texts of ``measured``, by id, in the last column, and the machine ``where`` above the table."""
    merged = [row._replace(measured=measured.get(row.id, row.measured)) for row in rows(page).values()]
    found = TABLE.search(page)
    assert found
    header = found["table"].splitlines(keepends=True)[:2]
    lines = [f"| {' | '.join(row)} |\n" for row in merged]
    return page[: found.start()] + where + "\n\n" + "".join([*header, *lines]) + page[found.end() :]


def machine() -> str:
    """One line on what the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else []
    processor = names[0] if names else platform.machine()
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"Measured on {processor}, {cores} cores, {memory:.0f} GiB, Python {python}."


def recorder(item: pytest.Item) -> Callable[[str, str], None]:
    """What the fixture ``figure`` gives to the test ``item``."""
    known = rows(PAGE.read_text(encoding="utf-8"))

    def record(id: str, text: str) -> None:
        assert id in known, f"docs/{PAGE.name} has no row {id}: add it, with its test and target"
        assert text and not set(text) & set("|\n"), f"one line for a cell of a table, not {text!r}"
        item.user_properties.append((PROPERTY, (id, text)))

    return record


def figures_of(report: pytest.TestReport) -> dict[str, str]:
    """Id -> text of what a system test measured, if it passed."""
    if report.when != "call" or not report.passed or "system" not in report.keywords:
        return {}
    return {str(value[0]): str(value[1]) for name, value in report.user_properties if name == PROPERTY}


def write(measured: dict[str, str]) -> None:
    """Put ``measured`` into the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_figures(page, measured, machine()), encoding="utf-8")
