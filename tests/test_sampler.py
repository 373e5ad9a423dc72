"""Who is drawn: every class as often as any other, the same samples for the same numbers, and what testing looks at."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks.reach import frames_of
from flowprep.stacks.sampler import Sampler, spread
from tests.loader_data import FRAMES, SHORT, STACKING, flow_dataset


def test_classes_are_drawn_alike_and_videos_within_them() -> None:
    """Chi-square of 10 batches of 256 videos: three classes, of which one has as many videos as the others together."""
    sampler = Sampler(flow_dataset(), STACKING, seed=3)
    drawn = [sampler.sample(0, number).clip for number in range(2560)]
    classes = np.bincount([clip.label for clip in drawn], minlength=3)
    assert sampler.classes == ("alone", "large", "small")
    assert chi_square(classes) < 13.8  # 2 degrees of freedom, p = 0.001
    large = np.unique([clip.id for clip in drawn if clip.label == 1], return_counts=True)[1]
    assert len(large) == 3
    assert chi_square(large) < 13.8


def test_frames_are_drawn_alike() -> None:
    sampler = Sampler(flow_dataset(), STACKING)
    drawn = [sampler.sample(1, number) for number in range(4000)]
    frames = np.bincount([sample.frame for sample in drawn if sample.clip.length == FRAMES - 1])
    assert len(frames) == FRAMES - STACKING.length  # 11 fields: frames 0..7
    assert chi_square(frames) < 24.3  # 7 degrees of freedom, p = 0.001


def test_draws_for_augmentation_are_uniform_and_independent() -> None:
    sampler = Sampler(flow_dataset(), STACKING)
    draws = [sampler.sample(0, number).draws for number in range(2000)]
    numbers = np.array([[*draw[:5], *draw.jitter] for draw in draws])
    assert numbers.shape == (2000, 13)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.03  # 4.6 standard errors
    assert np.abs(numbers.var(0) - 1 / 12).max() < 0.01
    assert np.abs(np.corrcoef(numbers.T) - np.eye(13)).max() < 0.1


def test_a_sample_follows_from_its_numbers_alone() -> None:
    first, again = (Sampler(flow_dataset(), STACKING, seed=7) for _ in range(2))
    forward = [first.sample(2, number) for number in range(50)]
    assert [again.sample(2, number) for number in reversed(range(50))] == forward[::-1]
    for other in (
        [first.sample(3, number) for number in range(50)],
        [first.sample(2, number, attempt=1) for number in range(50)],
        [Sampler(flow_dataset(), STACKING, seed=8).sample(2, number) for number in range(50)],
        [first.sample(2, number) for number in range(1, 51)],
    ):
        assert not set(other[:-1]) & set(forward[:1]) and sum(a == b for a, b in zip(other, forward, strict=True)) == 0


def test_samples_stay_the_same_from_version_to_version() -> None:
    """A training run that is resumed with newer software goes on with the samples of the old one."""
    sample = Sampler(flow_dataset(), STACKING, seed=1).sample(2, 3)
    assert (sample.clip.id, sample.frame) == ("more/zoom_out/zoom_out_00.avi", 6)
    assert sample.draws[:2] == (0.6133139899089174, 0.7884038891620192)
    assert sample.draws.jitter[-1] == 0.6169936876582395


def test_drawing_is_quick() -> None:
    sampler = Sampler(flow_dataset(), STACKING)
    sampler.sample(0, 0)
    best = min(cpu_seconds(sampler, 200) for _ in range(5))
    assert best / 200 < 100e-6  # s; a third of that on a machine with nothing else to do


def test_videos_that_are_too_short_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "flowprep"):
        sampler = Sampler(flow_dataset(), STACKING)
    assert sampler.excluded == {SHORT: "its 2 fields are too few for a stack"}
    assert SHORT in caplog.text
    assert SHORT not in {clip.id for clip in sampler.clips}
    assert len(sampler.clips) == 5

    repeating = Sampler(flow_dataset(), Stacking(length=4, short="repeat-last"))
    assert not repeating.excluded
    assert SHORT in {clip.id for clip in repeating.clips}
    frames = Sampler(flow_dataset(), frames=True)
    assert {clip.frames for clip in frames.clips if clip.id == SHORT} == {range(3)}


def test_parts_and_splits() -> None:
    dataset = flow_dataset()
    assert len(Sampler(dataset, STACKING, split=2, part="test").clips) == 5
    assert len(Sampler(dataset, STACKING, part="").clips) == 5
    with pytest.raises(UsageError, match="no video is in part 'val' of split 1; that split has train"):
        Sampler(dataset, STACKING, part="val")
    with pytest.raises(UsageError, match="split 4: give 1 to 3"):
        Sampler(dataset, STACKING, split=4)
    with pytest.raises(UsageError, match="no video can be drawn; left out, 6 videos: heighten"):
        Sampler(dataset, Stacking(length=13))
    with pytest.raises(UsageError, match="seed -1"):
        Sampler(dataset, STACKING, seed=-1)


@pytest.mark.parametrize("fields", [10, 11, 12, 34, 35, 36, 250])
def test_twenty_five_frames_to_test_at(fields: int) -> None:
    possible = frames_of(Stacking(), fields)
    frames = spread(possible)
    assert len(frames) == 25
    assert (frames[0], frames[-1]) == (0, fields - 10)
    assert frames == np.floor(np.linspace(0, fields - 10, 25) + 1e-9).astype(int).tolist()
    assert spread(possible, 1) == [0]


def chi_square(counts: np.ndarray) -> float:
    """Of counts that should all be the same."""
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def cpu_seconds(sampler: Sampler, count: int) -> float:
    start = time.process_time()
    for number in range(count):
        sampler.sample(0, number)
    return time.process_time() - start
