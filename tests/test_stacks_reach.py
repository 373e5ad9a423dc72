"""Which fields a stack takes, and at which frames it fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks import Reach, frames_of, reach

ANY = st.builds(
    lambda half, bidirectional, **options: Stacking(
        length=2 * half if bidirectional else half,
        bidirectional=bidirectional,
        **{**options, **({"anchor": "start"} if bidirectional else {})},
    ),
    half=st.integers(1, 16),
    bidirectional=st.booleans(),
    kind=st.sampled_from(["flow", "trajectory"]),
    temporal_stride=st.integers(1, 4),
    anchor=st.sampled_from(["start", "centre"]),
    short=st.sampled_from(["refuse", "repeat-last"]),
)


@pytest.mark.parametrize(
    ("options", "frames", "frame", "forward", "backward"),
    [
        ({}, range(17), 4, [4, 5, 6, 7], []),
        ({"temporal_stride": 3}, range(11), 4, [4, 7, 10, 13], []),
        ({"temporal_stride": 3, "kind": "trajectory"}, range(11), 4, list(range(4, 14)), []),
        ({"anchor": "centre"}, range(2, 19), 4, [2, 3, 4, 5], []),
        ({"anchor": "centre", "length": 5}, range(2, 18), 4, [2, 3, 4, 5, 6], []),
        ({"anchor": "centre", "temporal_stride": 2}, range(4, 18), 4, [0, 2, 4, 6], []),
        ({"bidirectional": True}, range(2, 19), 4, [4, 5], [3, 2]),
        ({"bidirectional": True, "length": 2}, range(1, 20), 1, [1], [0]),
        ({"bidirectional": True, "temporal_stride": 3}, range(4, 17), 4, [4, 7], [3, 0]),
        (
            {"bidirectional": True, "temporal_stride": 3, "kind": "trajectory"},
            range(4, 17),
            4,
            [4, 5, 6, 7],
            [3, 2, 1, 0],
        ),
    ],
)
def test_in_a_video_of_20_fields(options, frames, frame, forward, backward):
    stacking = Stacking(**{"length": 4, **options})
    assert frames_of(stacking, 20) == frames
    assert reach(stacking, 20, frame) == Reach(tuple(forward), tuple(backward))


@pytest.mark.parametrize(
    ("options", "frame", "forward", "backward"),
    [
        ({}, 0, [0, 1, 2, 2], []),
        ({"temporal_stride": 2}, 0, [0, 2, 2, 2], []),
        ({"temporal_stride": 2, "kind": "trajectory"}, 0, [0, 1, 2, 2, 2, 2, 2], []),
        ({"anchor": "centre"}, 2, [0, 1, 2, 2], []),
        ({"bidirectional": True, "length": 6}, 1, [1, 2, 2], [0, 0, 0]),
    ],
)
def test_a_video_of_3_fields_is_short(options, frame, forward, backward):
    options = {"length": 4, **options}
    refused = Stacking(**options)
    assert not frames_of(refused, 3)
    with pytest.raises(UsageError, match="3 fields is too short"):
        reach(refused, 3, frame)
    repeated = Stacking(**options, short="repeat-last")
    assert list(frames_of(repeated, 3)) == [frame]
    assert reach(repeated, 3, frame) == Reach(tuple(forward), tuple(backward))


@given(ANY, st.integers(0, 150))
def test_where_a_stack_fits_all_its_fields_exist(stacking, fields):
    frames = frames_of(stacking, fields)
    fits = len(frames) > 1 or stacking.short == "refuse"  # one frame alone may be that of a short video
    for frame in frames:
        forward, backward = reach(stacking, fields, frame)
        rows = sorted(forward + backward)
        assert rows[0] >= 0 and rows[-1] < fields
        assert list(forward) == sorted(forward) and list(backward) == sorted(backward, reverse=True)
        assert 0 <= frame <= fields
        if fits:
            assert len(set(rows)) == len(rows)
        taken = [
            half[:: stacking.temporal_stride if stacking.kind == "trajectory" else 1] for half in (forward, backward)
        ]
        assert len(taken[0]) + len(taken[1]) == stacking.length
        if stacking.bidirectional:
            assert len(forward) == len(backward)
            if fits:
                assert (forward[0], backward[0]) == (frame, frame - 1)


@given(ANY, st.integers(0, 150))
def test_no_frame_is_left_out(stacking, fields):
    """One field beyond the frames named is missing at either end."""
    frames = frames_of(stacking, fields)
    for frame in (frames.start - 1, frames.stop):
        with pytest.raises(UsageError, match=f"frame {frame}, length {stacking.length}: a video of {fields} fields"):
            reach(stacking, fields, frame)
    if len(frames) > 1:
        longer = [reach(stacking, fields + 1, frame) for frame in frames_of(stacking, fields + 1)]
        rows = {row for forward, backward in longer for row in forward + backward}
        assert {0, fields} <= rows  # the first field and the last one are part of some stack


@given(ANY)
def test_every_video_with_a_field_has_a_stack_if_asked(stacking):
    for fields in range(40):
        assert bool(frames_of(Stacking(**{**vars(stacking), "short": "repeat-last"}), fields)) == (fields > 0)
