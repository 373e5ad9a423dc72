"""Which frames are kept: strides, rates, irregular and missing time stamps, edit lists."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from flowprep.config import VideoConfig
from flowprep.errors import Verdict
from tests.clips import B_FRAMES, QUICK, Reading, numbered, write_clip


@pytest.mark.parametrize("stride", [1, 2, 3, 7, 40])
def test_stride(tmp_path, stride):
    path = write_clip(tmp_path / "a.mp4", numbered(23), options=QUICK)
    found = Reading(path, VideoConfig(stride=stride))
    assert found.numbers == list(range(0, 23, stride))
    assert found.report.frames_decoded == 23 and found.report.fps == pytest.approx(30 / stride)
    assert found.verdict is (Verdict.OK if stride < 23 else Verdict.TOO_SHORT)


CONSTANT = [("a.mp4", "libx264", QUICK), ("a.mkv", "libx264", QUICK), ("a.avi", "mpeg4", {"qmin": "1", "qmax": "2"})]


@pytest.mark.parametrize(("name", "codec", "options"), CONSTANT, ids=[row[0] for row in CONSTANT])
@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (10, list(range(0, 45, 3))),
        (15, list(range(0, 45, 2))),  # Matroska's milliseconds: 33, 67, 100, 133 ...
        (12, [0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40, 43]),
        (30, list(range(45))),
        (60, list(range(45))),  # never a frame twice
        (1, [0, 30]),
    ],
)
def test_fps(tmp_path, name, codec, options, fps, expected):
    path = write_clip(tmp_path / name, numbered(45), codec, options=options)
    found = Reading(path, VideoConfig(fps=fps))
    assert found.numbers == expected
    assert found.report.frames_decoded == 45 and found.report.fps == min(30, fps)


def test_fps_of_television(tmp_path):
    """29.97, short for 30000/1001, keeps every frame of a video of that rate."""
    times = [i * Fraction(1001, 30_000) for i in range(50)]
    path = write_clip(tmp_path / "a.mkv", numbered(50), times=times, options=QUICK)
    assert Reading(path, VideoConfig(fps=29.97)).numbers == list(range(50))
    assert Reading(path, VideoConfig(fps=14.985)).numbers == list(range(0, 50, 2))


IRREGULAR = [0, 0.02, 0.04, 0.11, 0.35, 0.36, 0.37, 0.49, 0.52, 0.90, 1.50, 1.51, 1.59, 1.61, 1.70]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("start", [0, 2])
def test_variable_frame_rate(tmp_path, name, start):
    times = [start + time for time in IRREGULAR]
    path = write_clip(tmp_path / name, numbered(len(times)), times=times, options=QUICK)
    everything = Reading(path)
    assert everything.verdict is Verdict.OK, everything
    assert everything.numbers == list(range(len(times)))
    # The first frame in each tenth of a second that has one.
    assert Reading(path, VideoConfig(fps=10)).numbers == [0, 3, 4, 7, 8, 9, 10, 13, 14]


def test_a_last_frame_that_stays_for_long_is_no_missing_end(tmp_path):
    path = write_clip(tmp_path / "a.mkv", numbered(5), times=[0, 0.1, 0.2, 0.3, 9.0], options=QUICK)
    assert Reading(path).verdict is Verdict.OK


def test_missing_time_stamps(tmp_path):
    """A raw stream has none: it plays at the rate that the stream names, or FFmpeg's 25."""
    path = write_clip(tmp_path / "a.h264", numbered(40), options=QUICK)
    found = Reading(path, VideoConfig(fps=5))
    assert found.report.frames_decoded == 40 and found.verdict is Verdict.OK
    assert found.numbers[0] == 0 and set(np.diff(found.numbers)) <= {5, 6}


def test_time_stamps_that_start_again(tmp_path):
    """Two recordings in one file, put together byte by byte."""
    parts = [write_clip(tmp_path / f"{i}.ts", numbered(46)[23 * i : 23 * i + 23], options=QUICK) for i in range(2)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert Reading(path).numbers == list(range(46))
    kept = Reading(path, VideoConfig(fps=10)).numbers
    assert kept[0] == 0 and kept[-1] >= 43 and set(np.diff(kept)) <= {2, 3, 4}


# An edit list plays a stretch of the film: here frames ``first`` to ``last``, by a patch of the box that holds it.
@pytest.mark.parametrize(("first", "last"), [(0, 40), (3, 40), (8, 40), (20, 40), (0, 30), (11, 25), (19, 21)])
def test_what_an_edit_list_cuts_away_is_not_missing(tmp_path, first, last):
    path = write_clip(tmp_path / "a.mp4", numbered(40), options={**B_FRAMES, "g": "8"})
    film = bytearray(path.read_bytes())
    at = film.index(b"elst") + 12  # 4 bytes of name, version, number of edits; then duration and start
    movie_rate = struct.unpack_from(">I", film, film.index(b"mvhd") + 16)[0]
    media_rate = struct.unpack_from(">I", film, film.index(b"mdhd") + 16)[0]
    start = struct.unpack_from(">i", film, at + 4)[0] + first * media_rate // 30
    struct.pack_into(">Ii", film, at, (last - first) * movie_rate // 30, start)
    path.write_bytes(film)
    found = Reading(path)
    assert found.verdict is Verdict.OK, found
    assert found.numbers == list(range(first, last))
    assert found.report.frames_declared == last - first
