"""The versions of everything that has a hand in the stored bytes."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from flowprep import __version__

OPENCV = ("opencv-contrib-python", "opencv-contrib-python-headless")  # one of the two
LIBRARIES = ("av", "dask", "distributed", "imagecodecs", "llvmlite", "numba", "numcodecs", "numpy")
PACKAGES = (*LIBRARIES, *OPENCV, "pillow", "zarr")


@cache
def versions() -> dict[str, str]:
    """Name -> version of flowprep, Python, the machine's architecture, and the packages that are installed."""
    found = {"flowprep": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
