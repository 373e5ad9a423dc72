"""The one door to OpenCV: loads it with threads under our control, and explains a missing system library."""

from __future__ import annotations

from functools import cache
from types import ModuleType

from flowprep.errors import RefusedError


@cache
def load() -> ModuleType:
    """The module ``cv2``, set to one thread: parallelism is one process per worker.

    Raises RefusedError naming the package to install where a system library is missing.
    """
    try:
        import cv2
    except ImportError as error:
        raise RefusedError(explain(str(error))) from error
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    return cv2


def explain(message: str) -> str:
    """What to install when ``import cv2`` fails with ``message``."""
    packages = {
        "libGL": "libgl1 (Debian, Ubuntu) or mesa-libGL (Fedora)",
        "libgthread": "libglib2.0-0 (Debian, Ubuntu) or glib2 (Fedora)",
        "libglib": "libglib2.0-0 (Debian, Ubuntu) or glib2 (Fedora)",
        "libxcb": "libxcb1 (Debian, Ubuntu) or libxcb (Fedora)",
    }
    for library, package in packages.items():
        if library in message:
            return (
                f"OpenCV cannot be loaded: {message}. Install the system package {package}, "
                "or replace opencv-contrib-python by opencv-contrib-python-headless, which needs none."
            )
    if "libnpp" in message:
        return (
            f"OpenCV cannot be loaded: {message}. It was built with CUDA and needs the libraries NPP of the same CUDA: "
            "install them, or that toolkit, and name their folder in LD_LIBRARY_PATH (docs/opencv-cuda.md)."
        )
    return f"OpenCV cannot be loaded: {message}. Reinstall it with: pip install opencv-contrib-python"
