"""Every GPU kernel compiles for every architecture, without a GPU, and to what was meant: single precision, values in
registers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_code import compiled, machine_code

PACKAGE = Path(__file__).parents[1] / "flowprep" / "flow" / "cuda"

Architecture = tuple[int, int]  # compute capability
OLDEST, *NEWER = (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)
REGISTERS = 65536  # of a multiprocessor

# What is not as it is for all others. STACK: bytes of memory that each thread may take, for want of registers or for an
# array whose index is not constant.
DOUBLE = {"fields_kernels.statistics"}  # adds up in float64
STACK = {"tvl1_kernels.relax": 56, "brox_sweeps.sweep": 8}


def kernels() -> Iterator[tuple[Any, list[tuple[Any, ...]]]]:
    """Every kernel of the package with the types that it is launched with.

    A module that has kernels says them by a function ``signatures()``, and none may be missing there.
    """
    for path in sorted(PACKAGE.glob("[!_]*.py")):
        module = importlib.import_module(f"flowprep.flow.cuda.{path.stem}")
        own = [value for value in vars(module).values() if is_kernel(value)]
        told = module.signatures() if hasattr(module, "signatures") else {}
        missing = [
            name_of(kernel) for kernel in own if name_of(kernel).startswith(f"{path.stem}.") and kernel not in told
        ]
        assert not missing, f"signatures() of {path} has no {', '.join(missing)}"
        yield from told.items()


def is_kernel(value: Any) -> bool:
    return hasattr(value, "targetoptions") and not value.targetoptions.get("device")


def name_of(kernel: Any) -> str:
    """ "module.function"."""
    return f"{kernel.py_func.__module__.split('.')[-1]}.{kernel.py_func.__name__}"


KERNELS = [
    pytest.param(kernel, types, id=f"{name_of(kernel)}-{number}")
    for kernel, signatures in kernels()
    for number, types in enumerate(signatures)
]


def check(kernel: Any, types: tuple[Any, ...], virtual: Architecture, real: list[Architecture]) -> None:
    """PTX for one architecture, and the machine code that ptxas makes of it for others."""
    ptx, name = compiled(kernel, types, virtual), name_of(kernel)
    assert ".entry" in ptx and f".target sm_{virtual[0]}{virtual[1]}" in ptx
    assert not re.findall(r"\bcall\b.*", ptx), "a function that was not inlined"
    if name not in DOUBLE:
        assert not re.findall(r".*\.f64.*", ptx), "double precision: a float literal, or int * float32?"
    (threads, *_) = kernel.targetoptions["launch_bounds"]
    for architecture in real:
        found = machine_code(ptx, architecture)
        assert 0 < found["registers"] * threads <= REGISTERS, architecture
        assert found["local"] <= STACK.get(name, 0), (architecture, found)


@pytest.mark.parametrize(("kernel", "types"), KERNELS)
def test_code_for_the_oldest_fits_all(kernel: Any, types: tuple[Any, ...]) -> None:
    check(kernel, types, OLDEST, [OLDEST, (9, 0), NEWER[-1]])


@pytest.mark.system
@pytest.mark.parametrize("architecture", NEWER, ids=str)
@pytest.mark.parametrize(("kernel", "types"), KERNELS)
def test_code_for_each(kernel: Any, types: tuple[Any, ...], architecture: Architecture) -> None:
    check(kernel, types, architecture, [architecture])
