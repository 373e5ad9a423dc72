"""Names and shapes: where everything lies in a dataset.

OUT.zarr/
  zarr.json                          the group: settings, versions; consolidated metadata
  flow_240x320/c/7/0/0/0             one shard file: rows 7*2048 .. 8*2048-1, each one field (2, H, W)
  flow_240x320_scale/c/7/0           (2048, 2)    float32   px per level
  flow_240x320_zero/c/7/0            (2048, 2)    float32   level of 0 px
  flow_240x320_stats/c/7/0/0         (2048, 2, 3) float32   mean, minimum, maximum in px of the original floats
  flow_backward_240x320...           the same four, where asked for: row i leads from frame i+1 to frame i
  frames_256x341/c/3/0/0/0           one shard file of RGB frames (3, H, W)
  videos/                            one column an array: id, label, split1..3, status, array, start, length, ...
  .flowprep/plan.0.json              who does what; .1, .2 ... for each retry or extension
  .flowprep/commits/0.00012.json     the truth: files with their sha256, and one ledger row for each video
  .flowprep/digest.json              the verdicts of all, once it is finished: derived, and only to save time
  .flowprep/tmp/ .flowprep/locks/    work in progress; never read
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PLANS = ".flowprep"
COMMITS = ".flowprep/commits"
DIGEST = ".flowprep/digest.json"
SIDES: dict[str, tuple[int, ...]] = {"scale": (2,), "zero": (2,), "stats": (2, 3)}  # shape of one row, float32
BLOCK_KEY = re.compile(rf"(\w+?)(?:_({'|'.join(SIDES)}))?/c/([0-9]{{1,15}})[/0]+")


@dataclass(frozen=True)
class ArrayName:
    """``flow_240x320``: what a row is, and its size in px."""

    kind: str  # "flow", "flow_backward" or "frames"
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.kind}_{self.height}x{self.width}"

    @classmethod
    def parse(cls, name: str) -> ArrayName:
        match = re.fullmatch(r"(flow|flow_backward|frames)_([1-9][0-9]{0,4})x([1-9][0-9]{0,4})", name)
        if not match:
            raise ValueError(f"not the name of a data array: {name!r}")
        return cls(match[1], int(match[2]), int(match[3]))

    @property
    def is_flow(self) -> bool:
        return self.kind != "frames"

    def row_shape(self) -> tuple[int, int, int]:
        return (2 if self.is_flow else 3, self.height, self.width)

    def turned(self, kind: str) -> ArrayName:
        """The array of another kind at the same size."""
        return ArrayName(kind, self.height, self.width)


def shard_key(array: ArrayName | str, block: int) -> str:
    """Key of the shard file that holds rows block*SLOTS .. of a data array (4 dimensions)."""
    return f"{array}/c/{block}/0/0/0"


def side_key(array: ArrayName | str, side: str, block: int) -> str:
    """Key of the chunk of ``scale``, ``zero`` or ``stats`` for the same rows."""
    return f"{array}_{side}/c/{block}" + "/0" * len(SIDES[side])


def parse_block_key(key: str) -> tuple[ArrayName, str, int]:
    """(data array, side array or "", block) of a key that one of the two above made; ValueError for anything else."""
    if match := BLOCK_KEY.fullmatch(key):
        array, side, block = ArrayName.parse(match[1]), match[2] or "", int(match[3])
        if key == (side_key(array, side, block) if side else shard_key(array, block)):
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
