"""How the OpenCV of this machine was built, and whether its CUDA, where it has any, can use a GPU here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from flowprep import opencv
from flowprep.devices import objection
from flowprep.errors import RefusedError

# All of them bring the folder cv2/: the one that was installed last has written over the others.
PACKAGES = (
    "opencv-python",
    "opencv-contrib-python",
    "opencv-python-headless",
    "opencv-contrib-python-headless",
)
RECIPE = "docs/opencv-cuda.md says how to build one"
FIRST_DRIVER = {"12": 525, "13": 580}  # of NVIDIA, by major version of CUDA

_opened_in = 0  # the process that has used CUDA here; 0 = none yet


def without_cuda(solver: str, modules: Sequence[str]) -> str:
    """Why ``cv2.cuda.<solver>``, with what it needs of ``modules``, cannot run here; "" where it can.

    It looks for GPUs by OpenCV's own CUDA, which takes no memory of them.
    """
    try:
        cv2 = opencv.load()
    except RefusedError as error:
        return str(error)
    return _no_cuda(cv2) or _not_built(cv2, solver, modules) or _no_gpu(cv2)


def use_cuda() -> None:
    """To be called before CUDA is used. Raises RefusedError in a process that was forked from one that had used it."""
    global _opened_in  # noqa: PLW0603 - CUDA's state is the process's own
    if _opened_in not in (0, os.getpid()):
        raise RefusedError(
            "This process was forked from one that had used CUDA, which does not survive that: start processes by "
            'multiprocessing.get_context("spawn"), or use CUDA in the forked ones alone.'
        )
    _opened_in = os.getpid()


def built(cv2: ModuleType, what: str) -> str:
    """What OpenCV says of how it was built, the line ``what``; "" if it has none."""
    found = re.search(rf"^\s*{what}:[ \t]*(.*)$", cv2.getBuildInformation(), re.M)
    return found[1].strip() if found else ""


def cuda_of(cv2: ModuleType) -> str:
    """Version of CUDA that OpenCV was built with, as "13.0"; "" if without."""
    found = re.fullmatch(r"YES \(ver ([\d.]+).*\)", built(cv2, "NVIDIA CUDA"))
    return found[1] if found else ""


def cuda_devices(cv2: ModuleType) -> int:
    """GPUs that an OpenCV with CUDA sees here; 0 also where it fails."""
    try:
        use_cuda()
        return max(0, int(cv2.cuda.getCudaEnabledDeviceCount()))
    except (cv2.error, RefusedError):
        return 0


def _no_cuda(cv2: ModuleType) -> str:
    if cuda_of(cv2):
        return ""
    installed = [name for name in PACKAGES if _is_installed(name)]
    if len(installed) > 1:
        return (
            f"{' and '.join(installed)} are installed over each other, and the OpenCV that is left has no CUDA: "
            f"uninstall all of them, then install the one that was built with CUDA; {RECIPE}."
        )
    return f"this OpenCV was built without CUDA, as all packages of PyPI are: {RECIPE}."


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _not_built(cv2: ModuleType, solver: str, modules: Sequence[str]) -> str:
    missing = [name for name in modules if name not in built(cv2, "To be built").split()]
    if not missing and hasattr(cv2.cuda, solver):
        return ""
    what = f"its modules {' and '.join(missing)}" if missing else f"cv2.cuda.{solver}"
    return f"this OpenCV has CUDA, but was built without {what}: {RECIPE}."


def _no_gpu(cv2: ModuleType) -> str:
    has = f"this OpenCV has CUDA {cuda_of(cv2)}"
    try:
        use_cuda()
        count = cv2.cuda.getCudaEnabledDeviceCount()
        fits = count > 0 and cv2.cuda.DeviceInfo(0).isCompatible()
    except RefusedError as error:
        return str(error)
    except (cv2.error, SystemError) as error:
        return f"{has}, which fails here: {cause(error)}."
    if count < 0:
        oldest = FIRST_DRIVER.get(cuda_of(cv2).split(".")[0])
        needed = f" (it needs {oldest} or newer)" if oldest else ""
        return f"{has}, but the NVIDIA driver is missing or too old for it{needed}; nvidia-smi says which there is."
    if wrong := objection():
        return f"{has}, but not what was asked for: {wrong}."
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        shown = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        return f"{has}, but sees no GPU{shown}; nvidia-smi lists them, and a container must be given them (--gpus all)."
    if not fits:
        types = " ".join(filter(None, (built(cv2, "NVIDIA GPU arch"), built(cv2, "NVIDIA PTX archs"))))
        return f"{has}, but was built for GPUs of other types than this one ({types}): {RECIPE}."
    return ""


def cause(error: BaseException) -> str:
    """What OpenCV says, in a line. Constructors of its GPU types hide it in a SystemError."""
    text = " ".join(str(error.__cause__ or error).split())
    found = re.search(r"error: \(-\d+:[^)]*\) (.*?)(?: in function '.*')?$", text)
    return (found[1] if found else text).rstrip(".")
