"""The table of measured figures is whole, and only what a system test measured gets into it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import figures

ROOT = Path(__file__).parents[2]
LEFT_OUT = {9, 14}  # no object stores; no second copies of slow shards
PAGE = """\
before
<!-- figures -->
Not measured yet.

| id | test | target | measured |
|---|---|---|---|
| R1 | `a.py::b` | no | 3 |
| R2a | `a.py::c` | none | not measured |
<!-- end of figures -->
after
"""


def test_every_promise_has_a_row_and_every_row_a_system_test() -> None:
    rows = figures.rows(figures.PAGE.read_text(encoding="utf-8")).values()
    numbers = {int(re.fullmatch(r"R(\d+)[a-z]?", row.id)[1]) for row in rows}
    assert numbers == set(range(1, 17)) - LEFT_OUT
    missing = []
    for row in rows:
        name, function = row.test.strip("`").split("::")
        source = ROOT / name
        text = source.read_text(encoding="utf-8") if source.is_file() else ""
        found = [node for node in ast.walk(ast.parse(text)) if getattr(node, "name", "") == function]
        marks = [ast.unparse(mark) for node in found for mark in getattr(node, "decorator_list", [])]
        if "pytest.mark.system" not in marks or f'"{row.id}"' not in text:
            missing.append(row)
    assert not missing, "no system test that measures: " + ", ".join(f"{row.id} {row.test}" for row in missing)


def test_only_what_was_measured_changes() -> None:
    page = figures.with_figures(PAGE, {"R2a": "0 of 7"}, "On a machine.")
    expected = PAGE.replace("Not measured yet.", "On a machine.").replace("not measured |", "0 of 7 |")
    assert page == expected
    assert [row.measured for row in figures.rows(page).values()] == ["3", "0 of 7"]
    assert figures.with_figures(page, {}, "On a machine.") == page


def test_a_page_without_its_table_is_named() -> None:
    with pytest.raises(AssertionError, match="has no table"):
        figures.rows("text")
    with pytest.raises(AssertionError, match="two rows"):
        figures.rows(PAGE.replace("R2a", "R1"))


@pytest.mark.parametrize(
    ("when", "passed", "keywords", "expected"),
    [
        ("call", True, {"system": 1}, {"R1": "7"}),
        ("call", False, {"system": 1}, {}),
        ("call", True, {"parametrize": 1}, {}),
        ("teardown", True, {"system": 1}, {}),
    ],
)
def test_figures_of_system_tests_that_passed(when: str, passed: bool, keywords: object, expected: object) -> None:
    report = SimpleNamespace(when=when, passed=passed, keywords=keywords)
    report.user_properties = [("other", 1), (figures.PROPERTY, ("R1", "7"))]
    assert figures.figures_of(report) == expected


def test_what_fits_no_cell_is_refused(figure, request: pytest.FixtureRequest) -> None:
    for id, text in (("R99", "7"), ("R1", ""), ("R1", "a|b"), ("R1", "a\nb")):
        with pytest.raises(AssertionError):
            figure(id, text)
    figure("R1", "7")
    assert request.node.user_properties == [(figures.PROPERTY, ("R1", "7"))]


def test_the_machine_is_told_in_one_line() -> None:
    assert re.fullmatch(r"Measured on .+, \d+ cores, \d+ GiB, Python 3.+\.", figures.machine())
