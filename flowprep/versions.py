"""The versions of everything that has a hand in the stored bytes."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from flowprep import __version__

OPENCV = ("opencv-contrib-python", "opencv-contrib-python-headless")  # one of the two
CUDA = ("cuda-bindings", "cuda-core", "numba-cuda")
COMPILERS = (  # of kernels for GPUs, by CUDA 13 and 12
    *("nvidia-nvjitlink", "nvidia-nvvm"),
    *("nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12"),
)
LIBRARIES = ("av", "dask", "distributed", "imagecodecs", "llvmlite", "numba", "numcodecs", "numpy")
PACKAGES = (*CUDA, *COMPILERS, *LIBRARIES, *OPENCV, "pillow", "zarr")


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
