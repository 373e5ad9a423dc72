"""The GPU and its driver, asked without taking memory there: who asks may never compute on it."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from flowprep.devices import objection

INSTALL = "pip install 'flowprep[cuda]'"
COMPILER = ("nvvm", "nvJitLink", "nvrtc")  # libraries that kernels are compiled by
CAPABILITY = (7, 5)  # Turing, the oldest GPUs that CUDA 13 compiles for


def unavailable() -> str:
    """Why the GPUs that this process sees cannot run the kernels; "" where all of them can."""
    if not_installed := _not_installed():
        return not_installed
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return objection()  # it runs on the processor, thread by thread
    from cuda.bindings import driver

    try:
        (done,) = driver.cuInit(0)
    except (RuntimeError, OSError):  # what cuda.bindings says of a library that is not there is a RuntimeError
        return "no NVIDIA driver is installed (libcuda.so.1 is not found)"
    if done == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        return objection() or (
            "the driver finds no GPU that this process may use (nvidia-smi lists all, CUDA_VISIBLE_DEVICES chooses)"
        )
    if done != driver.CUresult.CUDA_SUCCESS:
        return f"the NVIDIA driver does not start: {done.name}"
    return objection() or _no_compiler() or _too_old(driver)


def uncompilable() -> str:
    """Why kernels cannot be compiled here, for which no GPU is needed; "" where they can."""
    return _not_installed() or _no_compiler()


def _not_installed() -> str:
    packages = ("numba_cuda", "cuda", "cuda.bindings")
    return "" if all(map(find_spec, packages)) else f"numba-cuda is not installed: {INSTALL}"


def _no_compiler() -> str:
    missing = [name for name in COMPILER if not _loads(name)]
    return f"{', '.join(missing)} of CUDA cannot be loaded: {INSTALL}" if missing else ""


def _too_old(driver: Any) -> str:
    """What is: the driver for the compiler, or a GPU."""
    _, newest = driver.cuDriverGetVersion()
    compiler = int(version("cuda-bindings").split(".")[0])
    if newest // 1000 < compiler:
        older = "; or in a new environment what fits this one: pip install 'flowprep[cuda12]'"
        return (
            f"the driver is for CUDA {newest // 1000}.{newest % 1000 // 10}, the kernels are compiled with CUDA "
            f"{compiler}: install a newer driver{older if newest >= 12000 else ''}"
        )
    _, count = driver.cuDeviceGetCount()
    for _, gpu in map(driver.cuDeviceGet, range(count)):
        if (capability := _capability(gpu)) < CAPABILITY:
            others = "; name the others in CUDA_VISIBLE_DEVICES" if count > 1 else ""
            return "{} has compute capability {}.{}, {}.{} is the least{}".format(
                _name(gpu), *capability, *CAPABILITY, others
            )
    return ""


def description() -> str:
    """The first GPU that this process sees, which :func:`unavailable` has nothing to say against."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "Numba's simulator, on the processor"
    from cuda.bindings import driver

    _, gpu = driver.cuDeviceGet(0)
    return "{}, compute capability {}.{}".format(_name(gpu), *_capability(gpu))


def _loads(library: str) -> bool:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    try:
        load_nvidia_dynamic_lib(library)
    except (RuntimeError, OSError):
        return False
    return True


def _name(gpu: object) -> str:
    from cuda.bindings import driver

    _, name = driver.cuDeviceGetName(100, gpu)
    return bytes(name).split(b"\0")[0].decode(errors="replace")


def _capability(gpu: object) -> tuple[int, int]:
    from cuda.bindings import driver

    kinds = driver.CUdevice_attribute
    _, major = driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, gpu)
    _, minor = driver.cuDeviceGetAttribute(kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, gpu)
    return major, minor
