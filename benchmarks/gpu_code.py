"""What become of our GPU kernels as machine code? Registers, memory, blocks at a time, without a GPU.

    python -m benchmarks.gpu_code [--architecture 9.0] [--json FILE]

Every kernel is compiled as it would be at its first launch on a GPU of that compute capability. Threads are the most a
block has, by which registers are given out. Spilled are bytes that a thread keeps in memory for want of registers;
local is all its memory, which arrays take, too, whose indices only running shows. Both cost time where it iterates.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path
from typing import Any

from cuda.bindings import nvjitlink
from numba import cuda

import flowprep.flow.cuda
from flowprep.flow.cuda import TVL1, Brox

MODULES = dict.fromkeys((*TVL1.kernels, *Brox.kernels))


def compiled(kernel: Any, types: tuple[Any, ...], architecture: tuple[int, int]) -> str:
    """PTX of ``kernel`` for a compute capability, made with the options that the package makes it with."""
    options = {name: kernel.targetoptions[name] for name in ("fastmath", "launch_bounds")}
    ptx, _ = cuda.compile(kernel.py_func, types, cc=architecture, device=False, abi="numba", **options)
    return str(ptx)


def machine_code(ptx: str, architecture: tuple[int, int]) -> dict[str, int]:
    """Registers of a thread; bytes spilled, and local memory, of a thread; bytes of shared memory of a block."""
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
    parser.add_argument("--architecture", default="9.0", help="compute capability, 7.5 to 12.0")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    major, minor = options.architecture.split(".")
    rows = measure((int(major), int(minor)))
    columns = ("threads", "registers", "spilled", "local", "shared")
    print(
        f"| kernel, compute capability {options.architecture} | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|"
    )
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
