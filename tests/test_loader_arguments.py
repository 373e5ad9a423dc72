"""What a loader may be given, and what it makes of inputs beyond cutting them: normalised, unjittered, not recycled."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flowprep.config import FlowConfig, Stacking, StorageConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks import IMAGENET, Augmentation, Normalisation, Sampler, StackLoader
from flowprep.stacks.recycling import KEPT, Recycler
from flowprep.stacks.resizing import resize
from flowprep.stacks.sampler import Clip
from tests.loader_data import CROP, STACKING, flow_dataset, flow_folder


def loader_of(stacking: Stacking | None = STACKING, **options: Any) -> StackLoader:
    settings: dict[str, Any] = {"batch_size": 4, "batches": 3, "augmentation": Augmentation(CROP)}
    return StackLoader(flow_dataset(), stacking, **(settings | options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stacking(kind="Trajectory"), "kind: no such value 'Trajectory'. Did you mean 'trajectory'"),
        (lambda: Stacking(anchor="center"), "anchor: no such value 'center'. Did you mean 'centre'"),
        (lambda: Stacking(short="refused"), "short: no such value 'refused'. Did you mean 'refuse'"),
        (lambda: StorageConfig(codec="jpg"), "codec: no such value 'jpg'. Did you mean 'jpeg'"),
        (lambda: FlowConfig(direction="forwards"), "direction: no such value 'forwards'. Did you mean 'forward'"),
        (lambda: loader_of(frames=True), "leave the stacking out, or frames"),
        (lambda: Sampler(flow_dataset(), STACKING, frames=True), "leave the stacking out, or frames"),
        (lambda: loader_of().batch(0, 3), "batch 3 of epoch 0: an epoch has the batches 0 to 2"),
        (lambda: loader_of().batch(0, -1), "batch -1 of epoch 0"),
        (lambda: loader_of().batch(-1, 0), "batch 0 of epoch -1"),
        (lambda: loader_of().test_batch(5), "clip 5, count 25: the clips are 0 to 4"),
        (lambda: loader_of().test_batch(0, 0), "clip 0, count 0"),
        (lambda: loader_of(normalise=IMAGENET), "give one number, or one for each of u, v"),
        (lambda: Normalisation(std=(0.0,)), "std .*: give a tuple of positive numbers"),
        (lambda: Normalisation(mean=0.5), "mean 0.5: give a tuple of numbers"),  # type: ignore[arg-type]
    ],
)
def test_mistakes(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_path_does_for_a_dataset() -> None:
    loader = StackLoader(str(flow_folder()), STACKING, batch_size=4, augmentation=Augmentation(CROP))
    assert np.array_equal(loader.batch(0, 0).levels, loader_of().batch(0, 0).levels)
    assert Sampler(flow_folder(), STACKING).sample(0, 1) == loader.sampler.sample(0, 1)


@pytest.mark.parametrize(
    ("options", "by"),
    [
        ({}, Normalisation((0.0, -0.25), (2.0, 0.5))),
        ({}, Normalisation(std=(3.0,))),
        ({}, Normalisation((0.5,))),
        ({"stacking": None, "frames": True}, IMAGENET),
    ],
)
def test_inputs_are_normalised(options: dict[str, Any], by: Normalisation) -> None:
    plain, normal = loader_of(**options), loader_of(normalise=by, **options)
    for one, other in ((plain.batch(0, 1), normal.batch(0, 1)), (plain.test_batch(0, 2), normal.test_batch(0, 2))):
        channels = one.levels.shape[1]
        mean, std = (np.resize(values, channels)[:, None, None] for values in (by.mean or (0,), by.std or (1,)))
        assert np.array_equal(one.levels, other.levels)
        np.testing.assert_allclose(other.numpy(), (one.numpy() - mean) / std, atol=1e-4)
    (threaded, *_) = loader_of(normalise=by, workers=2, **options)
    assert np.array_equal(threaded.mean, normal.batch(0, 0).mean)


def test_without_jitter_frames_are_as_stored() -> None:
    batch = loader_of(None, frames=True, augmentation=Augmentation(CROP, jitter=None)).batch(0, 0)
    assert np.array_equal(batch.numpy(), batch.levels)


def test_jitter_may_leave_the_range_of_levels() -> None:
    values = loader_of(None, frames=True, batch_size=64).batch(0, 0).numpy()
    assert values.min() < 0 or values.max() > 255


def test_memory_that_is_kept_is_bounded() -> None:
    recycler = Recycler()
    arrays = [recycler.empty((size, 3), np.dtype(np.int16)) for size in range(1, 4 * KEPT)]
    del arrays
    gc.collect()
    assert len(recycler._free) == KEPT
    assert recycler.empty((5, 2), np.dtype(np.uint8)).shape == (5, 2)


def test_memory_of_test_batches_is_not_kept() -> None:
    loader = loader_of()
    for clip in range(5):
        loader.test_batch(clip)
    assert not loader._recycler._free


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16, np.int8, np.int16])
def test_what_shrinks_by_much_is_averaged(dtype: type) -> None:
    """Every fourth pixel is 100: bilinear sampling at a quarter of the size would see all of them, or none."""
    plane = np.zeros((16, 16), dtype)
    plane[:, ::4] = 100
    for size in ((4, 4), (16, 4)):
        out = np.empty(size, dtype)
        resize(plane, out)
        assert np.array_equal(out, np.full(size, 25, dtype))
    same = np.empty_like(plane)
    resize(plane, same)
    assert np.array_equal(same, plane)


def test_crops_that_shrink_by_much_are_averaged() -> None:
    """Augmentation as a whole: a crop of 48x48 px resized to 8x8 keeps its mean."""
    small = loader_of(augmentation=Augmentation(8, "centre", (1.0,), flip=False)).batch(0, 0)
    large = loader_of(augmentation=Augmentation(48, "centre", flip=False)).batch(0, 0)
    means = large.levels.mean(axis=(2, 3))
    assert np.abs(small.levels.mean(axis=(2, 3)) - means).max() < 0.3  # levels: rounding


def test_damaged_videos_are_named_in_the_same_order_by_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for workers in (0, 4):
        loader = loader_of(batch_size=64, batches=1, workers=workers, on_damage="skip")
        load, turns = loader.source.load, np.random.default_rng(workers)

        def broken(clip: Clip, *rest: Any, load: Any = load, turns: np.random.Generator = turns) -> Any:
            time.sleep(turns.random() / 1000)
            if clip.label:
                raise RefusedError(f"{clip.id}: damaged")
            return load(clip, *rest)

        monkeypatch.setattr(loader.source, "load", broken)
        batches += list(loader)
    assert len(set(batches[0].damaged)) == 4
    assert batches[0].damaged == batches[1].damaged == tuple(sorted(batches[0].damaged))
