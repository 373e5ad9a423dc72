"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import figures

MEASURED: dict[str, str] = {}  # of this run: row of the table in docs/reliability.md -> its text


def pytest_configure(config: pytest.Config) -> None:
    """Compiled kernels are kept with the tests' own files, not in the user's cache folder."""
    if getattr(config, "cache", None) is not None:  # not with -p no:cacheprovider
        os.environ.setdefault("FLOWPREP_CACHE", str(config.cache.mkdir("kernels")))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    MEASURED.update(figures.figures_of(report))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if MEASURED and not hasattr(session.config, "workerinput"):  # of parallel runs the one that has all reports
        figures.write(MEASURED)


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``figure("R5", "10,000 mutants ...")``: what a system test that passes has measured, for docs/reliability.md."""
    return figures.recorder(request.node)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real videos, ground truth and golden files; tests that need it skip without it."""
    folder = os.environ.get("FLOWPREP_TEST_DATA")
    if not folder:
        pytest.skip("FLOWPREP_TEST_DATA is not set: no real videos, ground truth or golden files at hand")
    return Path(folder)
