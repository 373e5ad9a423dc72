"""Memory that a child shares with the process of its GPU: frames go in, levels come out.

It is an anonymous file (memfd): in no folder, not bounded by /dev/shm, gone with the last process that has it. Its size
is sealed: a process that runs wild cannot make it shorter under the other, which would be killed by that.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.config import MIN_SIDE
from flowprep.config.source import DIRECTIONS

ALIGNED = 64  # bytes
LONGEST_SIDE = 2**16  # px
MOST_FRAMES = 2**16
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
LEVELS = ("uint8", "uint16", "int8", "int16")


@dataclass(frozen=True)
class Request:
    """What a child asks for: flow of consecutive frames, and what it wants of it."""

    frames: int
    height: int  # px
    width: int
    dtype: str  # of the frames: uint8, or float32 in 0..255
    direction: str  # of the flow: forward, backward or both
    levels: str  # dtype of the levels; "" = none are wanted
    first: int = 0  # the pairs first, first + every ... are wanted as float32, too
    every: int = 0  # 0 = none are

    @property
    def pairs(self) -> int:
        return self.frames - 1

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions one by one. All fields of the first one come before those of the second."""
        return ("forward", "backward") if self.direction == "both" else (self.direction,)

    @property
    def fields(self) -> int:
        return self.pairs * len(self.directions)

    @property
    def originals(self) -> range:
        """The pairs whose fields are wanted as float32."""
        return range(self.first, self.pairs, self.every) if self.every else range(0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Request:
        """What :meth:`to_json` gave; ValueError or TypeError for anything else: a child may have gone wild."""
        made = cls(**data)
        numbers = (made.frames, made.height, made.width, made.first, made.every)
        if not (
            all(type(number) is int and number >= 0 for number in numbers)
            and 2 <= made.frames <= MOST_FRAMES
            and all(MIN_SIDE <= side <= LONGEST_SIDE for side in (made.height, made.width))
            and made.dtype in ("uint8", "float32")
            and made.direction in DIRECTIONS
            and made.levels in ("", *LEVELS)
        ):
            raise ValueError(f"no such request: {data}")
        return made

    def arrays(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of all that goes in and comes out, by name, in the order in which they lie."""
        n, size = self.fields, (self.height, self.width)
        out: dict[str, tuple[tuple[int, ...], str]] = {
            "frames": ((self.frames, *size), self.dtype),
            "originals": ((len(self.originals) * len(self.directions), 2, *size), "float32"),
        }
        if self.levels:
            out["levels"] = ((n, 2, *size), self.levels)
            out |= {"scale": ((n, 2), "float32"), "zero": ((n, 2), "float32")}
            out |= {"extremes": ((n, 2, 2), "float32"), "means": ((n, 2), "float32")}
        return out

    @property
    def bytes(self) -> int:
        """That all of it takes."""
        return sum(_bytes(shape, dtype) for shape, dtype in self.arrays().values())


def _bytes(shape: tuple[int, ...], dtype: str) -> int:
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNED) * ALIGNED


class SharedMemory:
    """One piece of it, mapped."""

    def __init__(self, handle: int, size: int) -> None:
        """``handle``: of the file. Raises MemoryError where there is no room for ``size`` bytes."""
        self.size = size
        try:
            self._map = mmap.mmap(handle, size)
        except OSError as error:
            raise MemoryError(f"no room for {size / 2**20:.0f} MiB of shared memory") from error

    @classmethod
    def make(cls, size: int) -> tuple[SharedMemory, int]:
        """A new one, and the handle to give to the other process and to close then."""
        handle = os.memfd_create("flowprep", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(handle, size)
            fcntl.fcntl(handle, fcntl.F_ADD_SEALS, SEALS)
            return cls(handle, size), handle
        except BaseException:
            os.close(handle)
            raise

    @classmethod
    def received(cls, handle: int) -> SharedMemory:
        """That of another process, whose ``handle`` is closed. ValueError or OSError where it is none."""
        try:
            if fcntl.fcntl(handle, fcntl.F_GET_SEALS) & SEALS != SEALS:
                raise ValueError("the size of that memory is not sealed")
            return cls(handle, os.fstat(handle).st_size)
        finally:
            os.close(handle)

    def views(self, request: Request) -> dict[str, NDArray[Any]]:
        """The arrays of a request; ValueError where they do not fit."""
        if request.bytes > self.size:
            raise ValueError(f"{request.bytes} bytes do not fit into {self.size}")
        found: dict[str, NDArray[Any]] = {}
        start = 0
        for name, (shape, dtype) in request.arrays().items():
            found[name] = np.frombuffer(self._map, dtype, math.prod(shape), start).reshape(shape)
            start += _bytes(shape, dtype)
        return found
