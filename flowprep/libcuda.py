"""What the library of the NVIDIA driver says of the GPUs that this process sees.

It is asked in a process of its own: a driver that hangs would hang whoever asks it, deaf to every signal. Asking takes
no memory of a GPU.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from functools import cache
from typing import NamedTuple

from flowprep.processes import answer_of

LIBRARY = "libcuda.so.1"
ASK = [sys.executable, "-P", "-m", "flowprep.libcuda"]
SECONDS = 15.0  # for it to answer: sleeping GPUs wake up one after the other
SUCCESS, NO_DEVICE = 0, 100  # of CUresult
CAPABILITY = (75, 76)  # of CUdevice_attribute: major, minor


class Device(NamedTuple):
    """One GPU."""

    name: str
    capability: tuple[int, int]


class Answer(NamedTuple):
    """All that CUDA shows; or what is wrong with the driver, in words."""

    trouble: str = ""
    version: int = 0  # of CUDA, the newest that the driver is for: 13020 is 13.2
    devices: tuple[Device, ...] = ()


@cache
def answer() -> Answer:
    """Ask the driver, once for this process."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Answer(f"no NVIDIA driver is installed ({LIBRARY} is not found)")
    said, trouble = answer_of(ASK, SECONDS)
    if trouble:
        return Answer(f"the NVIDIA driver {trouble}")
    error, version, devices = json.loads(said.splitlines()[-1])  # a library may have said something, too
    if error:
        return Answer(f"the NVIDIA driver does not start: {error}")
    return Answer("", version, tuple(Device(name, (major, minor)) for name, major, minor in devices))


def main() -> None:
    """Print the name of the error that the driver starts with, or "", its version, and each GPU."""
    signal.alarm(int(SECONDS) + 1)  # also where nobody is left to end it
    driver = ctypes.CDLL(LIBRARY)
    count, version, error = ctypes.c_int(), ctypes.c_int(), ctypes.c_char_p()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (SUCCESS, NO_DEVICE):
        driver.cuGetErrorName(code, ctypes.byref(error))
    driver.cuDriverGetVersion(ctypes.byref(version))
    devices = [] if code else [_device(driver, number) for number in range(count.value)]
    sys.stdout.write(json.dumps([(error.value or b"").decode(), version.value, devices]) + "\n")


def _device(driver: ctypes.CDLL, number: int) -> tuple[str, int, int]:
    device, name, value = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in CAPABILITY:
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    major, minor = capability
    return name.value.decode(errors="replace"), major, minor


if __name__ == "__main__":
    main()
