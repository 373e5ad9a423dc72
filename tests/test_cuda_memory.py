"""How many pairs have room on a GPU, and what is said where not one has: it is small, or others have its memory."""

from __future__ import annotations

import pytest

from flowprep.errors import RefusedError, Verdict, VideoError
from flowprep.flow import cuda
from flowprep.flow.cuda import MOST_PAIRS, TVL1
from flowprep.flow.tvl1 import TVL1Parameters

MIB = 2**20


def pairs(free: int, whole: int, given: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of which one takes 9 MiB, beside one for all. ``free`` MiB of ``whole`` are; FLOWPREP_GPU_MEMORY is ``given``."""
    monkeypatch.setattr(cuda, "_memory", lambda: (free * MIB, whole * MIB))
    monkeypatch.setattr(TVL1, "_bytes", lambda *_: (MIB, 9 * MIB))
    monkeypatch.setenv("FLOWPREP_GPU_MEMORY", given)
    return TVL1(TVL1Parameters()).pairs_in_a_batch(96, 128)


@pytest.mark.parametrize(
    ("free", "whole", "given", "expected"),
    [
        (50, 1000, "", 2),  # 40 % of what is free, less 1 MiB
        (50, 1000, "20", 1),
        (50, 1000, "38", 2),
        (500, 1000, "380", 21),
        (500, 1000, "9999", 27),  # no more than there is
        (80000, 80000, "", MOST_PAIRS),
    ],
)
def test_a_batch_takes_half_of_what_is_free_or_given(
    free: int, whole: int, given: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pairs(free, whole, given, monkeypatch) == expected


@pytest.mark.parametrize(("whole", "given", "there"), [(20, "", 8), (1000, "16", 8), (18, "9999", 9)])
def test_frames_that_an_empty_gpu_has_no_room_for(
    whole: int, given: str, there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VideoError, match=f"128x96 pixels takes 10 MiB of the GPU's memory, {there} are there") as error:
        pairs(min(whole, 15), whole, given, monkeypatch)
    assert error.value.verdict is Verdict.TOO_LARGE
    assert ("FLOWPREP_GPU_MEMORY" in str(error.value)) == bool(given)


@pytest.mark.parametrize("given", ["", "9999", "100"])
def test_memory_that_others_have_is_no_videos_fault(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "others have the memory of the GPU. 15 of 1000 MiB are free, .* takes 10. .*FLOWPREP_GPU_MEMORY=15 "
    with pytest.raises(RefusedError, match=words) as error:
        pairs(15, 1000, given, monkeypatch)
    assert not isinstance(error.value, VideoError)
