"""Names and shapes: where everything lies in a dataset.

OUT.zarr/
  zarr.json                          the group: settings, versions; consolidated metadata
  flow_240x320/c/7/0/0/0             one shard file: rows 7*2048 .. 8*2048-1, each one field (2, H, W)
  flow_240x320_scale/c/7/0           (2048, 2)    float32   px per level
  flow_240x320_zero/c/7/0            (2048, 2)    float32   level of 0 px
  flow_240x320_stats/c/7/0/0         (2048, 2, 3) float32   mean, minimum, maximum in px of the original floats
  flow_backward_240x320...           the same four, where asked for: row i leads from frame i+1 to frame i
  frames_256x341/c/3/0/0/0           one shard file of RGB frames (3, H, W)
  stack_20x224x224/c/3/0/0/0         one shard file of stacks (2L, H, W), of a dataset of stacks; scale, zero and
                                     stats (of all its u and all its v) as those of fields, and beside them
  stack_20x224x224_mean/c/3/0        (2048, 2L)   float32   px: mean of the field that each channel was taken from
  stack_20x224x224_frame/c/3         (2048,)      int32     the frame that the stack is of
  videos/                            one column an array: id, label, split1..3, status, array, start, length, ...
  .flowprep/plan.0.json              who does what; .1, .2 ... for each retry or extension
  .flowprep/commits/0.00012.json     the truth: files with their sha256, and one ledger row for each video
  .flowprep/digest.json              the verdicts of all, once it is finished: derived, and only to save time
  .flowprep/tmp/ .flowprep/locks/    work in progress; never read
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

PLANS = ".flowprep"
COMMITS = ".flowprep/commits"
DIGEST = ".flowprep/digest.json"


class Side(NamedTuple):
    """One small value, or a few, that go with each row of an array."""

    shape: tuple[int, ...]  # of one row
    dtype: str = "<f4"


SIDES = {"scale": Side((2,)), "zero": Side((2,)), "stats": Side((2, 3))}  # of fields and stacks
STACK_SIDES = ("mean", "frame")  # and those of stacks alone
NAME = rf"(\w+?)(?:_({'|'.join((*SIDES, *STACK_SIDES))}))?"  # of a data array, or of a side array
BLOCK_KEY = re.compile(rf"{NAME}/c/([0-9]{{1,15}})[/0]*")


@dataclass(frozen=True)
class ArrayName:
    """``flow_240x320`` or ``stack_20x224x224``: what a row is, and its size in px."""

    kind: str  # "flow", "flow_backward", "frames" or "stack"
    height: int
    width: int
    channels: int = 2  # 2L of a stack

    def __str__(self) -> str:
        depth = f"{self.channels}x" if self.kind == "stack" else ""
        return f"{self.kind}_{depth}{self.height}x{self.width}"

    @classmethod
    def parse(cls, name: str) -> ArrayName:
        size = "([1-9][0-9]{0,4})x([1-9][0-9]{0,4})"
        if match := re.fullmatch(f"(flow|flow_backward|frames)_{size}", name):
            return cls(match[1], int(match[2]), int(match[3]), 3 if match[1] == "frames" else 2)
        if (match := re.fullmatch(f"stack_([1-9][0-9]?)x{size}", name)) and int(match[1]) % 2 == 0:
            return cls("stack", int(match[2]), int(match[3]), int(match[1]))
        raise ValueError(f"not the name of a data array: {name!r}")

    @property
    def is_rgb(self) -> bool:
        """Whether rows are RGB frames; else they are levels of flow, with values aside."""
        return self.kind == "frames"

    @property
    def rows_of(self) -> str:
        """The array whose rows these are, too: both directions of flow share theirs."""
        return str(self.turned("flow")) if self.kind == "flow_backward" else str(self)

    @property
    def sides(self) -> dict[str, Side]:
        """What goes with each row, by name."""
        if self.is_rgb:
            return {}
        own = (Side((self.channels,)), Side((), "<i4"))
        return SIDES | (dict(zip(STACK_SIDES, own, strict=True)) if self.kind == "stack" else {})

    def row_shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def turned(self, kind: str) -> ArrayName:
        """The array of the other direction of flow at the same size."""
        return replace(self, kind=kind)

    def directions(self, direction: str) -> list[ArrayName]:
        """The arrays of a video with rows here: of flow in ``direction`` (forward, backward or both), or of stacks."""
        if direction == "both" and self.kind != "stack":
            return [self.turned("flow"), self.turned("flow_backward")]
        return [self]


def shard_key(array: ArrayName | str, block: int) -> str:
    """Key of the shard file that holds rows block*SLOTS .. of a data array (4 dimensions)."""
    return f"{array}/c/{block}/0/0/0"


def side_key(array: ArrayName, side: str, block: int) -> str:
    """Key of the chunk of a side array for the same rows."""
    return f"{array}_{side}/c/{block}" + "/0" * len(array.sides[side].shape)


def parse_block_key(key: str) -> tuple[ArrayName, str, int]:
    """(data array, side array or "", block) of a key that one of the two above made; ValueError for anything else."""
    if match := BLOCK_KEY.fullmatch(key):
        array, side, block = ArrayName.parse(match[1]), match[2] or "", int(match[3])
        if (not side or side in array.sides) and key == (
            side_key(array, side, block) if side else shard_key(array, block)
        ):
            return array, side, block
    raise ValueError(f"not the key of a block of rows: {key!r}")


def plan_key(generation: int) -> str:
    return f"{PLANS}/plan.{generation}.json"


def shard_name(generation: int, shard: int) -> str:
    """``0.00012``: names the lock under which a shard is published, and its commit record."""
    return f"{generation}.{shard:05d}"


def commit_key(generation: int, shard: int) -> str:
    return f"{COMMITS}/{shard_name(generation, shard)}.json"


def parse_commit_key(key: str) -> tuple[int, int] | None:
    """(generation, shard) of a commit record's key; None for anything else."""
    match = re.fullmatch(rf"{re.escape(COMMITS)}/([0-9]{{1,9}})\.([0-9]{{5,9}})\.json", key)
    found = (int(match[1]), int(match[2])) if match else None
    return found if found and key == commit_key(*found) else None
