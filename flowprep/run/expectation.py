"""What a run should come to: its plan, its size, its time. Guesses, printed by --dry-run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowprep.plan import BLOCK, Estimate, Plan, make_plan
from flowprep.run.product import Product
from flowprep.store.commits import Commit
from flowprep.store.layout import ArrayName, parse_block_key
from flowprep.store.shardfile import INDEX_BYTES
from flowprep.types import Video

RATIOS = {"jpeg": 60.0, "htj2k": 140.0, "blosc": 17.0}  # float32 bytes of a field to stored bytes, by codec
FRAME_BYTES_PER_PIXEL = 0.25  # of a stored RGB frame


@dataclass(frozen=True)
class Expectation:
    """What --dry-run prints."""

    plan: Plan
    estimates: list[Estimate] = field(default_factory=list)
    seconds: float = 0.0  # on one core

    @property
    def videos(self) -> int:
        return sum(len(item.videos) for item in self.plan.shards)

    @property
    def frames(self) -> int:
        return sum(guess.decoded for guess in self.estimates)

    @property
    def fields(self) -> int:
        return sum(guess.fields for guess in self.estimates)

    @property
    def bytes(self) -> int:
        """Expected size of the dataset: rows, and what each block file takes besides."""
        settings = self.plan.settings
        total = 0.0
        for shard in self.plan.shards:
            for name, run in shard.blocks.items():
                sides = sum(math.prod(side.shape) for side in ArrayName.parse(name).sides.values())
                total += run.count * (INDEX_BYTES + 4 * BLOCK * sides)
        for guess in self.estimates:
            for array in map(ArrayName.parse, guess.rows):
                if array.is_rgb:
                    total += (guess.fields + 1) * array.height * array.width * FRAME_BYTES_PER_PIXEL
                    continue
                directions = len(array.directions(settings.flow.direction))
                floats = guess.fields * directions * math.prod(array.row_shape())
                total += 4 * floats / RATIOS[settings.storage.codec]
        return int(total)


def expect(
    product: Product, root: Path, videos: Sequence[Video], generation: int, used: dict[str, int], workers: int
) -> Expectation:
    """Cut ``videos`` into shards and add up what they should need.

    ``used`` is the first unused block of each array that exists already; see :func:`used_blocks`. ``workers``: how many
    files to look into at once. Raises UnfinishedError when told to stop.
    """
    guesses = product.estimates(root, videos, workers)
    pairs = list(zip(videos, guesses, strict=True))
    plan = make_plan(pairs, product.settings, str(root), seconds=product.seconds, generation=generation, used=used)
    return Expectation(plan, guesses, sum(map(product.seconds, guesses)))


def used_blocks(commits: Sequence[Commit]) -> dict[str, int]:
    """First block behind everything committed, for each array whose rows a plan hands out."""
    used: dict[str, int] = {}
    for commit in commits:
        for item in commit.files:
            array, _, block = parse_block_key(item.key)
            used[array.rows_of] = max(used.get(array.rows_of, 0), block + 1)
    return used
