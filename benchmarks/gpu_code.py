"""What do our GPU kernels become as machine code? Registers, memory, blocks at a time, without a GPU.

    python -m benchmarks.gpu_code [--architecture 9.0] [--json FILE]

Every kernel is compiled as it would be at its first launch on a GPU of that compute capability; one that several types
of arguments are passed to, for the first of these. Threads are the most a block has, by which registers are given out.
Spilled are bytes that a thread keeps in memory for want of registers; local is all its memory, which arrays take, too,
whose indices only running shows. Both cost time where it iterates.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from typing import Any

import flowprep.flow.cuda
from benchmarks.arguments import target, told
from flowprep.errors import RefusedError, UsageError
from flowprep.flow.cuda import TVL1, Brox, driver

MODULES = dict.fromkeys((*TVL1.kernels, *Brox.kernels))


def compiled(kernel: Any, types: tuple[Any, ...], architecture: tuple[int, int]) -> str:
    """PTX of ``kernel`` for a compute capability, made with the options that the package makes it with."""
    from numba import cuda

    options = {name: kernel.targetoptions[name] for name in ("fastmath", "launch_bounds")}
    ptx, _ = cuda.compile(kernel.py_func, types, cc=architecture, device=False, abi="numba", **options)
    return str(ptx)


def machine_code(ptx: str, architecture: tuple[int, int]) -> dict[str, int]:
    """Registers of a thread; bytes spilled, and local memory, of a thread; bytes of shared memory of a block."""
    from cuda.bindings import nvjitlink

    options = ["-arch=sm_{}{}".format(*architecture), "-O3", "-verbose", "-Xptxas=-v"]
    link = nvjitlink.create(len(options), options)
    try:
        text = ptx.encode()
        nvjitlink.add_data(link, nvjitlink.InputType.PTX, text, len(text), "kernel")
        nvjitlink.complete(link)
        log = bytearray(nvjitlink.get_info_log_size(link))
        nvjitlink.get_info_log(link, log)
    finally:
        nvjitlink.destroy(link)
    found = {
        "registers": rb"Used (\d+) registers",
        "spilled": rb"(\d+) bytes spill stores",
        "local": rb"(\d+) bytes stack frame",
        "shared": rb"(\d+) bytes smem",
    }
    return {name: int(match[1]) if (match := re.search(form, log)) else 0 for name, form in found.items()}


def capability(text: str) -> tuple[int, int]:
    """One that CUDA compiles for. Raises UsageError for others."""
    from numba.cuda.cudadrv.nvrtc import get_supported_ccs

    known: dict[str, tuple[int, int]] = {"{}.{}".format(*one): one for one in get_supported_ccs()}
    if text not in known:
        raise UsageError(f"--architecture {text}: CUDA compiles for {', '.join(known)}.")
    return known[text]


def measure(architecture: tuple[int, int]) -> dict[str, dict[str, int]]:
    rows = {}
    for name in MODULES:
        module = importlib.import_module(f"{flowprep.flow.cuda.__name__}.{name}")
        named = {id(value): attribute for attribute, value in vars(module).items()}
        for kernel, signatures in module.signatures().items():
            code = machine_code(compiled(kernel, signatures[0], architecture), architecture)
            rows[f"{name}.{named[id(kernel)]}"] = {"threads": kernel.targetoptions["launch_bounds"][0], **code}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--architecture", default="9.0", help="compute capability, as 7.5")
    parser.add_argument("--json", type=target, help="write the figures there too")
    options = parser.parse_args()
    if reason := driver.uncompilable():
        raise RefusedError(reason)
    rows = measure(capability(options.architecture))
    columns = ("threads", "registers", "spilled", "local", "shared")
    print(
        f"| kernel, compute capability {options.architecture} | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|"
    )
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    told(main)
