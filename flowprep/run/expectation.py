"""What an extraction should come to: its plan, its size, its time. Guesses from headers, printed by --dry-run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowprep import flow
from flowprep.config import Settings
from flowprep.plan import Estimate, Plan, estimate, make_plan
from flowprep.store.commits import Commit
from flowprep.store.layout import parse_block_key
from flowprep.types import Probe, Video

FLOW_RATIO = 60.0  # float32 bytes of a field to stored bytes
FRAME_BYTES_PER_PIXEL = 0.25  # of a stored RGB frame
OTHER_SECONDS_PER_FRAME = 0.004  # decode, quantise, encode
USUAL_SIZE = (256, 340)  # px, of a video whose header says nothing


@dataclass(frozen=True)
class Expectation:
    """What --dry-run prints."""

    plan: Plan
    estimates: dict[str, Estimate] = field(default_factory=dict)
    seconds: float = 0.0  # on one core

    @property
    def videos(self) -> int:
        return sum(len(item.videos) for item in self.plan.shards)

    @property
    def frames(self) -> int:
        return sum(guess.decoded for guess in self.estimates.values())

    @property
    def fields(self) -> int:
        return sum(guess.fields for guess in self.estimates.values())

    @property
    def bytes(self) -> int:
        """Expected size of the dataset."""
        directions = 2 if self.plan.settings.flow.direction == "both" else 1
        total = 0.0
        for guess in self.estimates.values():
            if guess.flow:
                total += guess.fields * directions * guess.flow[0] * guess.flow[1] * 8 / FLOW_RATIO
            if guess.rgb:
                total += (guess.fields + 1) * guess.rgb[0] * guess.rgb[1] * FRAME_BYTES_PER_PIXEL
        return int(total)


def expect(
    settings: Settings,
    root: Path,
    videos: Sequence[Video],
    probes: Sequence[Probe | None],
    generation: int,
    used: dict[str, int],
) -> Expectation:
    """Cut ``videos`` into shards and add up what they should need.

    ``used`` is the first unused block of each array that exists already; see :func:`used_blocks`.
    """
    chosen = settings.flow
    algorithm = flow.get(chosen.method, chosen.backend, **chosen.parameters)
    directions = 2 if chosen.direction == "both" else 1

    def seconds(guess: Estimate) -> float:
        height, width = guess.flow or USUAL_SIZE
        each = algorithm.seconds_per_megapixel() * height * width / 1e6
        return guess.fields * each * directions + guess.decoded * OTHER_SECONDS_PER_FRAME

    pairs = list(zip(videos, probes, strict=True))
    plan = make_plan(pairs, settings, str(root), seconds=seconds, generation=generation, used=used)
    guesses = {video.id: estimate(video, probe, settings) for video, probe in pairs}
    return Expectation(plan, guesses, sum(map(seconds, guesses.values())))


def used_blocks(commits: Sequence[Commit]) -> dict[str, int]:
    """First block behind everything committed, for each array whose rows a plan hands out."""
    used: dict[str, int] = {}
    for commit in commits:
        for item in commit.files:
            array, _, block = parse_block_key(item.key)
            rows_of = str(array.turned("flow") if array.is_flow else array)  # both directions share their rows
            used[rows_of] = max(used.get(rows_of, 0), block + 1)
    return used
