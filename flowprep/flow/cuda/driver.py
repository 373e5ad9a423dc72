"""Whether kernels can run here, and on which GPU: asked without taking memory there."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec

from flowprep import libcuda
from flowprep.devices import objection
from flowprep.libcuda import Answer

INSTALL = "in flowprep's folder, pip install '.[cuda]'"
COMPILER = ("nvvm", "nvJitLink", "nvrtc")  # libraries that kernels are compiled by
CAPABILITY = (7, 5)  # Turing, the oldest GPUs that CUDA 13 compiles for


def unavailable() -> str:
    """Why the GPUs that this process sees cannot run the kernels; "" where all of them can."""
    if not_installed := _not_installed():
        return not_installed
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return objection()  # it runs on the processor, thread by thread
    found = libcuda.answer()
    if found.trouble:
        return found.trouble
    if not found.devices:
        return objection() or (
            "the driver finds no GPU that this process may use (nvidia-smi lists all, CUDA_VISIBLE_DEVICES chooses)"
        )
    return objection() or _no_compiler() or _too_old(found)


def uncompilable() -> str:
    """Why kernels cannot be compiled here, for which no GPU is needed; "" where they can."""
    return _not_installed() or _no_compiler()


def _not_installed() -> str:
    packages = ("numba_cuda", "cuda", "cuda.bindings")
    return "" if all(map(find_spec, packages)) else f"numba-cuda is not installed: {INSTALL}"


def _no_compiler() -> str:
    missing = [name for name in COMPILER if not _loads(name)]
    return f"{', '.join(missing)} of CUDA cannot be loaded: {INSTALL}" if missing else ""


def _too_old(found: Answer) -> str:
    """What is: the driver for the compiler, or a GPU."""
    newest = found.version
    compiler = int(version("cuda-bindings").split(".")[0])
    if newest // 1000 < compiler:
        older = "; or, in flowprep's folder and a new environment, what fits this one: pip install '.[cuda12]'"
        return (
            f"the driver is for CUDA {newest // 1000}.{newest % 1000 // 10}, the kernels are compiled with CUDA "
            f"{compiler}: install a newer driver{older if newest >= 12000 else ''}"
        )
    for name, capability in found.devices:
        if capability < CAPABILITY:
            others = "; name the others in CUDA_VISIBLE_DEVICES" if len(found.devices) > 1 else ""
            return "{} has compute capability {}.{}, {}.{} is the least{}".format(
                name, *capability, *CAPABILITY, others
            )
    return ""


def description() -> str:
    """The first GPU that this process sees, which :func:`unavailable` has nothing to say against."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "Numba's simulator, on the processor"
    first = libcuda.answer().devices[0]
    return "{}, compute capability {}.{}".format(first.name, *first.capability)


def _loads(library: str) -> bool:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    try:
        load_nvidia_dynamic_lib(library)
    except (RuntimeError, OSError):
        return False
    return True
