"""Damaged files without end, each through the sandbox as in a run: every one gets one verdict, in time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flowprep.config import ExtractConfig, FlowConfig, StorageConfig, VideoConfig
from flowprep.errors import Verdict
from flowprep.run.product import resolve
from flowprep.sandbox import Limits, Sandbox
from tests.test_video_damage import COUNT, whole

FILMS = ("plain.mp4", "mpeg4.avi", "plain.mkv", "plain.webm")  # H.264, MPEG-4, H.264, VP9
HEADER = 900  # bytes: more than the header of each of them
CONFIG = ExtractConfig(
    video=VideoConfig(max_pixels=1_000_000),
    flow=FlowConfig("dis", "opencv", "forward", {"preset": "ultrafast"}),
    storage=StorageConfig(rgb=False),
)
SILENCE = 10.0  # s
EXPECTED = {
    Verdict.OK,
    Verdict.SHORT,
    Verdict.CORRUPT_FRAMES,
    Verdict.UNDECODABLE,
    Verdict.NO_VIDEO,
    Verdict.TOO_SHORT,
    Verdict.TOO_SMALL,
    Verdict.TOO_LARGE,
}


def cut(film: bytes, chance: np.random.Generator, _others: list[bytes]) -> bytes:
    return film[: chance.integers(1, len(film))]


def flip_bits(film: bytes, chance: np.random.Generator, _others: list[bytes]) -> bytes:
    damaged = bytearray(film)
    end = len(film) if chance.random() < 0.5 else HEADER
    for place in chance.integers(0, end, chance.integers(1, 9)):
        damaged[place] ^= 1 << chance.integers(8)
    return bytes(damaged)


def splice(film: bytes, chance: np.random.Generator, others: list[bytes]) -> bytes:
    """A piece taken out, and one of the same or of another film put in its place."""
    first, last = sorted(chance.integers(0, len(film), 2))
    donor = others[chance.integers(len(others))]
    start, stop = sorted(chance.integers(0, len(donor), 2))
    return film[:first] + donor[start:stop] + film[last:]


def zeros(film: bytes, chance: np.random.Generator, _others: list[bytes]) -> bytes:
    start, length = chance.integers(0, len(film)), chance.integers(1, 2000)
    return film[:start] + bytes(min(length, len(film) - start)) + film[start + length :]


def swap_header(film: bytes, chance: np.random.Generator, others: list[bytes]) -> bytes:
    length = chance.integers(4, HEADER)
    return others[chance.integers(len(others))][:length] + film[length:]


WAYS = (cut, flip_bits, splice, zeros, swap_header)


def fuzz(folder: Path, count: int, seed: int) -> tuple[Counter[Verdict], float]:
    """Verdicts of ``count`` mutants, each checked, and the slowest answer in s."""
    films = {name: whole(folder / name) for name in FILMS}
    settings = resolve(CONFIG)
    chance = np.random.default_rng(seed)
    verdicts: Counter[Verdict] = Counter()
    slowest = 0.0
    scratch = folder / "scratch"
    scratch.mkdir()
    box = Sandbox(Limits(SILENCE, memory_mib=2048))
    try:
        for number in range(count):
            name, way = FILMS[number % len(FILMS)], WAYS[number // len(FILMS) % len(WAYS)]
            path = folder / f"mutant{number}{Path(name).suffix}"
            path.write_bytes(way(films[name], chance, list(films.values())))
            started = time.monotonic()
            row = box.extract(settings, path, name, scratch, lambda _: None)
            slowest = max(slowest, time.monotonic() - started)
            told = f"{path}, {way.__name__}: {row}"
            assert row.attempt == 1, told  # its process neither died nor fell silent
            assert row.verdict in EXPECTED, told
            assert row.verdict is Verdict.OK or row.reason, told
            if row.verdict is Verdict.OK:
                assert row.flow and row.flow.length == row.frames_decoded - 1, told
                assert row.frames_decoded >= row.frames_declared - 1, told
                assert way is not cut or row.frames_decoded >= COUNT - 1, told
            verdicts[row.verdict] += 1
            path.unlink()
    finally:
        box.close()
    assert slowest < SILENCE + 1
    assert verdicts.keys() >= {Verdict.OK, Verdict.SHORT, Verdict.CORRUPT_FRAMES, Verdict.UNDECODABLE}
    return verdicts, slowest


def test_five_hundred_mutants(tmp_path: Path) -> None:
    verdicts, _ = fuzz(tmp_path, 500, seed=0)
    assert verdicts.total() == 500


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_ten_thousand_mutants(tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    verdicts, slowest = fuzz(tmp_path, 10_000, seed=1)
    tally = ", ".join(f"{count:,} `{verdict}`" for verdict, count in verdicts.most_common())
    figure("R5", f"{verdicts.total():,} mutants: {tally}; 0 deaths; slowest answer {slowest:.1f} s")
