"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Compiled kernels are kept with the tests' own files, not in the user's cache folder."""
    if getattr(config, "cache", None) is not None:  # not with -p no:cacheprovider
        os.environ.setdefault("FLOWPREP_CACHE", str(config.cache.mkdir("kernels")))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real videos, ground truth and golden files; tests that need it skip without it."""
    folder = os.environ.get("FLOWPREP_TEST_DATA")
    if not folder:
        pytest.skip("FLOWPREP_TEST_DATA is not set: no real videos, ground truth or golden files at hand")
    return Path(folder)
