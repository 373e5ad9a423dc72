"""Which datasets a network learns from, in which proportion, and what its heads tell apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowprep.config import REGIMES, SolverConfig, Stacking, StorageConfig, TrainDataConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks import Augmentation, Jitter, StackLoader
from flowprep.store.reader import Dataset, VideoTable
from flowprep.train import inputs, tasks
from flowprep.train.schedule import schedule_of
from flowprep.train.tasks import Lessons, divided, open_lessons
from tests.training_data import CLASSES, CROP, dataset, stacks, tiny


def lessons(**changes: Any) -> Lessons:
    return open_lessons(tiny(Path("unused"), **changes), 3, share=(0, 1), workers=0)


def second() -> list[str]:
    return [str(dataset("second"))]


# --- schedule ---


def test_the_schedules_of_the_paper() -> None:
    """Section 5: 1e-2, then 1e-3 after 50K and 1e-4 after 70K of 80K iterations; fine-tuning after 14K of 20K."""
    schedules = {regime: schedule_of(SolverConfig(regime=regime)) for regime in REGIMES}
    assert {regime: schedule.iterations for regime, schedule in schedules.items()} == {
        "scratch": 80_000,
        "fine-tune": 20_000,
        "last-layer": 20_000,
    }
    rates = [schedules["scratch"].learning_rate(n) for n in (0, 49_999, 50_000, 69_999, 70_000, 79_999)]
    assert rates == [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]
    assert [schedules["fine-tune"].learning_rate(n) for n in (13_999, 14_000, 19_999)] == [1e-2, 1e-3, 1e-3]
    assert schedule_of(SolverConfig(iterations=1)).learning_rate(0) == 1e-2
    shrunk = schedule_of(SolverConfig(iterations=800, learning_rate=1.0))
    assert [shrunk.learning_rate(n) for n in (499, 500, 699, 700)] == [1, 0.1, 0.1, 0.01]


# --- tasks ---


@given(st.integers(1, 1000), st.lists(st.integers(1, 200), min_size=1, max_size=6))
def test_batches_are_divided_in_proportion(total: int, weights: list[int]) -> None:
    shares = divided(total, weights)
    assert sum(shares) == total
    assert all(abs(part - total * weight / sum(weights)) < 1 for part, weight in zip(shares, weights, strict=True))


def test_one_dataset_is_one_task() -> None:
    found = lessons()
    assert [task.classes for task in found.tasks] == [CLASSES["first"]]
    assert [source.samples for source in found.sources] == [8]
    assert found.channels == 4
    assert found.tasks[0].fingerprint == Dataset(dataset()).settings.fingerprint()


def test_all_videos_are_trained_on_where_asked() -> None:
    """Then none is left to validate on."""
    usual, whole = lessons(), lessons(data={"whole": True})
    assert [len(item.sources[0].loader.sampler.clips) for item in (usual, whole)] == [8, 12]
    assert usual.validation
    assert ["_02." in clip.id for clip in usual.validation.sampler.clips] == [True] * 4
    assert whole.validation is None


def test_validation_is_on_the_split_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a dataset whose second split alone has a test part."""

    class Moved(Dataset):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            splits = {"train": ("train", "train", ""), "test": ("", "test", "")}
            rows = [replace(row, video=replace(row.video, splits=splits[row.splits[0]])) for row in self.videos]
            self.videos = VideoTable(rows)

    monkeypatch.setattr(tasks, "Dataset", Moved)
    assert lessons().validation is None
    validation = lessons(data={"split": 2}).validation
    assert validation
    assert ["_02." in clip.id for clip in validation.sampler.clips] == [True] * 4


def test_videos_that_are_learned_from_are_known_by_their_files() -> None:
    (source,) = lessons().sources
    rows = {row.row.sha256: row for row in Dataset(dataset()).videos if row.splits[0] == "train"}
    assert source.videos.keys() == rows.keys()
    assert len(rows) == 8
    for file, label in source.videos.items():
        assert CLASSES["first"][label] == rows[file].label
    first, second_ = lessons(data={"added": second(), "leave_out": ["left"]}).sources
    assert first.videos == source.videos
    assert sorted(set(second_.videos.values())) == [4, 5], "numbers of the head's classes"


def test_further_tasks_have_heads_of_their_own_and_all_their_videos() -> None:
    found = lessons(data={"also": second()}, solver={"batch": 9})
    assert [task.classes for task in found.tasks] == [CLASSES["first"], CLASSES["second"]]
    assert [task.name for task in found.tasks] == ["first", "second"]
    assert [(source.task, source.samples) for source in found.sources] == [(0, 5), (1, 4)]
    assert len({source.loader.sampler.seed for source in found.sources}) == 2
    assert [len(source.loader.sampler.clips) for source in found.sources] == [8, 9], "train part; all videos"


def test_added_classes_join_the_head() -> None:
    found = lessons(data={"added": second()}, solver={"batch": 14})
    (task,) = found.tasks
    assert task.classes == (*CLASSES["first"], "widen", "zoom_out"), "left is a class of both"
    assert [(source.task, source.samples) for source in found.sources] == [(0, 8), (0, 6)], "4 and 3 classes"
    names = [task.classes[number] for number in found.sources[1].labels]
    assert tuple(names) == found.sources[1].loader.sampler.classes == CLASSES["second"]


def test_classes_are_left_out_of_added_datasets_alone() -> None:
    found = lessons(data={"added": second(), "leave_out": ["left"]})
    assert found.tasks[0].classes == (*CLASSES["first"], "widen", "zoom_out")
    first, added = (source.loader.sampler for source in found.sources)
    assert "left" in {first.classes[clip.label] for clip in first.clips}
    assert added.classes == ("widen", "zoom_out")
    assert {added.classes[clip.label] for clip in added.clips} == {"widen", "zoom_out"}
    whole = StackLoader(dataset("second"), Stacking(length=2), part="", augmentation=Augmentation(CROP)).sampler
    assert added.fingerprint != whole.fingerprint
    with pytest.raises(UsageError, match="no added dataset has a class 'widan'. Did you mean 'widen'"):
        lessons(data={"added": second(), "leave_out": ["widan"]})


def test_one_dataset_twice_has_two_names() -> None:
    found = lessons(data={"also": [str(dataset())]})
    assert [task.name for task in found.tasks] == ["first", "first-2"]
    for source in found.sources:
        source.loader.damaged.update({"left_00": 2, "left_01": source.task})
    assert found.damaged == {"left_00": 4, "left_01": 1}, "in both, one video has one name"


def relabelled(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    class Relabelled(Dataset):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            rows = [replace(row, video=replace(row.video, label=label)) for row in self.videos]
            self.videos = VideoTable(rows)

    monkeypatch.setattr(tasks, "Dataset", Relabelled)


def test_labels_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    relabelled(monkeypatch, "")
    with pytest.raises(UsageError, match="8 videos to train on without a label: heighten/heighten_00"):
        lessons()


def test_more_than_one_class_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    relabelled(monkeypatch, "all")
    with pytest.raises(UsageError, match="all its videos have one label, 'all'"):
        lessons()


def test_a_batch_must_have_a_sample_of_each_dataset() -> None:
    with pytest.raises(UsageError, match="solver.batch 1 is too small for 2 datasets"):
        lessons(data={"also": second()}, solver={"batch": 1})


def test_a_split_without_training_videos() -> None:
    with pytest.raises(UsageError, match="no video is in part 'train' of split 2"):
        lessons(data={"split": 2})


def test_classes_without_a_video_to_train_on() -> None:
    whole = lessons()
    assert whole.idle == []
    sampler = whole.sources[0].loader.sampler
    sampler.clips = tuple(clip for clip in sampler.clips if sampler.classes[clip.label] != "left")
    assert whole.idle == ["left"]


def test_too_large_a_crop() -> None:
    with pytest.raises(UsageError, match="a crop of 64x64 does not fit into 64x48 pixels"):
        lessons(data={"crop": 64})


# --- inputs ---


def test_shares_of_a_batch_are_the_batch() -> None:
    """Three processes read what one would."""
    config, source = tiny(Path("unused")), Dataset(dataset())
    options: dict[str, Any] = {"part": "train", "batch": 8, "seed": 3, "batches": 2}
    whole = inputs.stack_loader(config, source, **options).batch(0, 1)
    parts = [inputs.stack_loader(config, source, share=(rank, 3), **options).batch(0, 1) for rank in range(3)]
    assert [len(part) for part in parts] == [2, 3, 3]
    for name in ("levels", "scale", "mean", "labels", "videos", "frames"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    with pytest.raises(UsageError, match="W up to the batch size"):
        inputs.stack_loader(config, source, part="train", batch=2, seed=0, share=(0, 3))


def test_colours_for_the_spatial_stream() -> None:
    config = replace(tiny(Path("unused")), stream="spatial")
    source = Dataset(dataset())
    assert inputs.channels_of(config, source) == 3
    batch = inputs.stack_loader(config, source, part="train", batch=2, seed=0).batch(0, 0)
    assert batch.levels.shape == (2, 3, CROP, CROP)
    assert inputs.test_loader(config, source, part="test", split=1).test_batch(0, 2).levels.shape == (2, 3, 48, 64)


def test_datasets_that_lack_what_the_spatial_stream_needs() -> None:
    config = replace(tiny(Path("unused")), stream="spatial")
    with pytest.raises(UsageError, match="holds stacks, without RGB frames"):
        inputs.stack_loader(config, Dataset(stacks()), part="train", batch=2, seed=0)
    bare = Dataset(dataset())
    bare.settings = replace(bare.settings, storage=StorageConfig(rgb=False))
    with pytest.raises(UsageError, match="no RGB frames, which the spatial stream is trained on"):
        inputs.stack_loader(config, bare, part="train", batch=2, seed=0)


def test_of_stored_stacks_only_the_mean_changes() -> None:
    """Stacks with their means, from which training takes them."""
    stored = Dataset(stacks())
    config = replace(tiny(Path("unused")), stack=Stacking("trajectory", 3))
    assert inputs.channels_of(config, stored) == 6
    plain = replace(config, stack=Stacking("trajectory", 3, mean_subtract=False))
    centring, keeping = (inputs.test_loader(item, stored, part="test", split=1) for item in (config, plain))
    number = next(n for n, clip in enumerate(keeping.sampler.clips) if clip.id.startswith("left"))
    taken = keeping.test_batch(number, 1).numpy() - centring.test_batch(number, 1).numpy()  # in units of the network
    means = stored.stack_means(keeping.sampler.clips[number].id, 0, 1)
    assert keeping.normalise
    assert np.abs(taken * keeping.normalise.std[0] - means[:, :, None, None]).max() < 1e-3
    assert np.abs(means).max() > 1, "px: it moves by two"
    for wrong in (5, 10):  # 10 is the default
        with pytest.raises(UsageError, match=f"its stacks have length 3, not {wrong}: set stack.length to 3, or"):
            inputs.channels_of(replace(config, stack=Stacking("trajectory", wrong)), stored)
    with pytest.raises(UsageError, match="its stacks have kind trajectory, not flow"):
        inputs.channels_of(replace(config, stack=Stacking(length=3)), stored)


def test_training_inputs_are_changed_as_configured() -> None:
    config, source = tiny(Path("unused")), Dataset(dataset())
    options: dict[str, Any] = {"part": "train", "batch": 2, "seed": 0}
    usual = inputs.stack_loader(replace(config, data=TrainDataConfig(crop=CROP)), source, **options)
    assert usual.augmentation == Augmentation(CROP, "random", (), True, Jitter())
    data = TrainDataConfig(crop=CROP, position="corners", scales=[1.0, 0.75], flip=False, jitter=False)
    other = inputs.stack_loader(replace(config, data=data), source, **options)
    assert other.augmentation == Augmentation(CROP, "corners", (1.0, 0.75), False, None)


def test_other_settings_of_a_dataset_are_refused_when_a_run_goes_on() -> None:
    (source,) = lessons().sources
    state = source.state()
    source.go_on(state, 0)
    with pytest.raises(RefusedError, match="made with other settings"):
        source.go_on({**state, "fingerprint": "another"}, 0)
    for place in ({"batch": 2}, {"epoch": 1}, {"batch": 3}, {"epoch": -1}):  # of three batches none is learned from
        with pytest.raises(RefusedError, match="the checkpoint's place in a dataset is none"):
            source.go_on({**state, **place}, 0)
