"""What the loader ships is what the dataset holds: batches in pixels against stacks computed from Dataset.flow."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep.config import Stacking
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.assemble import stack_fields
from flowprep.stacks.augment import Augmentation, ten_crops
from flowprep.stacks.batch import Batch
from flowprep.stacks.loader import StackLoader
from flowprep.stacks.reach import reach
from flowprep.store.reader import Dataset
from flowprep.store.shardfile import INDEX_BYTES, ShardReader
from tests.in_process import stack
from tests.loader_data import CROP, FRAMES, HEIGHT, STACKING, WIDTH, flow_dataset, flow_folder

CENTRE = Augmentation(CROP, "centre", flip=False)
TOP, LEFT = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
KINDS = [
    Stacking(kind, 4, stride, both, mean, "start")
    for kind in ("flow", "trajectory")
    for stride in (1, 2)
    for both in (False, True)
    for mean in (False, True)
]


def loader_of(stacking: Stacking | None = STACKING, **options: object) -> StackLoader:
    return StackLoader(flow_dataset(), stacking, **{"batch_size": 6, "augmentation": CENTRE} | options)  # type: ignore[arg-type]


def expected(dataset: Dataset, stacking: Stacking, id: str, frame: int) -> NDArray[np.float32]:
    """The whole stack in px, from the flow that Dataset reads."""
    rows = reach(stacking, dataset.videos[id].fields, frame)
    halves = []
    for direction, numbers in zip(("forward", "backward"), rows, strict=True):
        if numbers:
            means = dataset.stats(id, direction=direction)[list(numbers), :, 0]
            halves.append((dataset.flow(id, direction=direction)[list(numbers)], means))
    (forward, means), (backward, backward_means) = (*halves, (None, None))[:2]
    return stack_fields(stacking, forward, backward, means=means, backward_means=backward_means)


def samples(loader: StackLoader, batch: Batch) -> list[tuple[int, str, int]]:
    """(slot, id, frame) of each sample."""
    ids = [loader.sampler.clips[number].id for number in batch.videos]
    return list(zip(range(len(batch)), ids, batch.frames.tolist(), strict=True))


@pytest.mark.parametrize("codec", ["jpeg", "htj2k", "blosc"])
@pytest.mark.parametrize("stacking", KINDS, ids=str)
def test_batches_are_the_stacks_of_the_dataset(stacking: Stacking, codec: str) -> None:
    dataset = flow_dataset(codec)
    loader = StackLoader(dataset, stacking, batch_size=6, augmentation=CENTRE)
    batch = loader.batch(0, 0)
    pixels = batch.numpy()
    assert pixels.shape == (6, 2 * stacking.length, CROP, CROP)
    assert pixels.dtype == np.float32
    # Trajectories are followed in px there and in levels here, and rounded to the nearest level.
    rounding = 0.51 * batch.scale.max() if stacking.kind == "trajectory" else 1e-5
    for slot, id, frame in samples(loader, batch):
        stack = expected(dataset, stacking, id, frame)[:, TOP : TOP + CROP, LEFT : LEFT + CROP]
        assert np.abs(pixels[slot] - stack).max() <= rounding
        assert batch.labels[slot] == loader.sampler.classes.index(dataset.videos[id].label)
    assert np.abs(pixels).max() > 0.3  # px


def test_random_crops_flips_and_scales() -> None:
    """Each channel of a resized, mirrored crop against the same of the float stack."""
    dataset = flow_dataset()
    augmentation = Augmentation(CROP, scales=(1.0, 0.8))
    loader = StackLoader(dataset, STACKING, batch_size=32, augmentation=augmentation)
    batch = loader.batch(0, 0)
    pixels = batch.numpy()
    mirrored = 0
    for slot, id, frame in samples(loader, batch):
        sample = loader.sampler.sample(0, slot)
        window = augmentation.window(HEIGHT, WIDTH, sample.draws)
        stack = window.of(expected(dataset, STACKING, id, frame)).copy()
        if augmentation.mirrored(sample.draws):
            mirrored += 1
            stack = stack[:, :, ::-1] * np.tile(np.float32([-1, 1]), STACKING.length)[:, None, None]
        factors = np.tile(np.float32([CROP / window.width, CROP / window.height]), STACKING.length)
        resized = bilinear(stack, CROP) * factors[:, None, None]
        assert np.abs(pixels[slot] - resized).max() <= np.abs(batch.scale[slot]).max()  # one level
    assert 8 <= mirrored <= 24
    assert len({augmentation.window(HEIGHT, WIDTH, loader.sampler.sample(0, n).draws)[2:] for n in range(32)}) == 4


def bilinear(planes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Planes (C, h, w) at ``side`` x ``side``, pixel centres at halves, borders repeated."""
    for axis in (1, 2):
        size = planes.shape[axis]
        place = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        low = np.minimum(place.astype(int), size - 2)
        share = (place - low).astype(np.float32).reshape((-1, 1) if axis == 1 else -1)
        planes = planes.take(low, axis) * (1 - share) + planes.take(low + 1, axis) * share
    return planes


def test_a_flip_turns_u_and_leaves_v() -> None:
    """Two loaders that differ in nothing but flips: mirrored samples are mirror images with -u."""
    plain = loader_of(batch_size=16).batch(0, 0).numpy()
    flipping = loader_of(batch_size=16, augmentation=replace(CENTRE, flip=True))
    flipped = flipping.batch(0, 0).numpy()
    mirrored = [flipping.augmentation.mirrored(flipping.sampler.sample(0, n).draws) for n in range(16)]
    assert 2 <= sum(mirrored) <= 14
    for slot, turned in enumerate(mirrored):
        image = plain[slot, :, :, ::-1] * np.tile(np.float32([-1, 1]), 4)[:, None, None]
        assert np.array_equal(flipped[slot], image if turned else plain[slot])


def test_mean_flow_is_subtracted_or_not() -> None:
    dataset = flow_dataset()
    with_mean, without = (loader_of(replace(STACKING, mean_subtract=on)).batch(0, 0) for on in (False, True))
    assert np.array_equal(with_mean.levels, without.levels)
    assert not with_mean.mean.any()
    loader = loader_of()
    for slot, id, frame in samples(loader, without):
        means = dataset.stats(id)[frame : frame + 4, :, 0].ravel()
        assert np.array_equal(without.mean[slot], means)
        assert np.allclose(with_mean.numpy()[slot] - without.numpy()[slot], means[:, None, None], atol=1e-5)


def test_rgb_frames() -> None:
    dataset = flow_dataset()
    jitter = replace(CENTRE.jitter, brightness=0.3)
    loader = loader_of(None, frames=True, augmentation=replace(CENTRE, jitter=jitter))
    batch = loader.batch(0, 0)
    assert batch.levels.shape == (6, 3, CROP, CROP)
    pixels = batch.numpy()
    for slot, id, frame in samples(loader, batch):
        image = dataset.frames(id, frame, frame + 1)[0, :, TOP : TOP + CROP, LEFT : LEFT + CROP]
        assert np.array_equal(batch.levels[slot], image)
        factor, shift = jitter.of(loader.sampler.sample(0, slot).draws.jitter)
        assert np.allclose(pixels[slot], image * np.float32(factor) + shift[:, None, None], atol=1e-3)
    assert len(np.unique(batch.mean[:, 0])) == 6


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_give_the_same_batches_in_the_same_order(workers: int) -> None:
    options = {"batches": 4, "batch_size": 20, "augmentation": Augmentation(CROP, scales=(1.0, 0.8))}
    alone, together = loader_of(**options), loader_of(workers=workers, **options)
    for _ in range(2):  # epochs
        pairs = list(zip(alone, together, strict=True))
        assert len(pairs) == 4
        for one, other in pairs:
            assert_same(one, other)
    assert one.position == (1, 3)


def test_going_on_in_the_middle_of_an_epoch() -> None:
    loader = loader_of(batches=5)
    everything = [batch for _ in range(2) for batch in loader]
    for workers in (0, 2):
        stopped, resumed = (loader_of(batches=5, workers=workers) for _ in range(2))
        seen = list(itertools.islice(stopped, 3))
        resumed.load_state_dict(stopped.state_dict())
        rest = [batch for _ in range(2) for batch in resumed]
        assert [batch.position for batch in (*seen, *rest)] == [(epoch, n) for epoch in (0, 1) for n in range(5)]
        for one, other in zip(everything, (*seen, *rest), strict=True):
            assert_same(one, other)


def test_batches_can_be_kept_and_their_memory_is_used_again() -> None:
    loader = loader_of(batches=9)
    batches = [loader.batch(0, number) for number in range(3)]
    for number, batch in enumerate(batches):
        assert_same(batch, loader_of(batches=9).batch(0, number))
    memory = {batch.levels.ctypes.data for batch in batches}
    assert len(memory) == 3
    view = batches[0].levels[3:, 1].T  # of a batch that is gone, a view is not
    content = view.copy()
    del batches, batch
    found = {loader.batch(1, number).levels.ctypes.data for number in range(9)}
    assert len(found) == 1
    kept = [loader.batch(2, number) for number in range(3)]
    assert len({batch.levels.ctypes.data for batch in kept} & memory) == 2
    assert np.array_equal(view, content)


def test_a_loader_travels_to_other_processes() -> None:
    """Pickled, forked and spawned: the same batches; the list of videos goes along, should the dataset grow."""
    loader = loader_of()
    reference = loader.batch(1, 0)
    assert_same(pickle.loads(pickle.dumps(loader)).batch(1, 0), reference)
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert_same(pool.apply(loader.batch, (1, 0)), reference)


def test_a_video_at_test_time_has_250_inputs() -> None:
    dataset = flow_dataset()
    loader = loader_of(part="")
    batch = loader.test_batch(2)
    id = loader.sampler.clips[2].id
    assert batch.levels.shape == (25, 8, HEIGHT, WIDTH)
    assert set(batch.videos) == {2}
    assert batch.frames[0] == 0
    assert batch.frames[-1] == loader.sampler.clips[2].length - 4
    crops = ten_crops(batch.numpy(), CROP, flow=True)
    assert crops.reshape(-1, 8, CROP, CROP).shape[0] == 250
    stack = expected(dataset, STACKING, id, int(batch.frames[7]))
    assert np.allclose(crops[4, 7], stack[:, TOP : TOP + CROP, LEFT : LEFT + CROP], atol=1e-5)
    frames = loader_of(None, frames=True, part="").test_batch(0)
    assert frames.frames[[0, -1]].tolist() == [0, FRAMES - 1]


def test_short_videos_repeat_their_last_field() -> None:
    stacking = replace(STACKING, short="repeat-last")
    loader = loader_of(stacking)
    number = next(n for n, clip in enumerate(loader.sampler.clips) if clip.length == 2)
    batch = loader.test_batch(number, 1)
    stack = expected(flow_dataset(), stacking, loader.sampler.clips[number].id, 0)
    assert np.allclose(batch.numpy()[0], stack, atol=1e-5)
    assert np.array_equal(batch.levels[0, 2:4], batch.levels[0, 6:8])


@pytest.mark.parametrize("kind", ["flow", "trajectory"])
@pytest.mark.parametrize("stored", [False, True])
def test_stored_stacks(tmp_path: Path, kind: str, stored: bool) -> None:
    """Their mean can be subtracted, or put back, whatever was stored; everything else is as it was stored."""
    folder = tmp_path / "stacks.zarr"
    stack(flow_folder(), folder, kind=kind, length=4, mean_subtract=stored, every=3)
    dataset = Dataset(folder)
    for wanted in (None, False, True):
        stacking = None if wanted is None else Stacking(kind, 4, mean_subtract=wanted)
        loader = StackLoader(dataset, stacking, batch_size=6, augmentation=CENTRE)
        batch = loader.batch(0, 0)
        pixels = batch.numpy()
        assert set(batch.frames) <= {0, 3, 6}
        same = Stacking(kind, 4, mean_subtract=stored if wanted is None else wanted)
        for slot, id, frame in samples(loader, batch):
            stack_px = expected(flow_dataset(), same, id, frame)[:, TOP : TOP + CROP, LEFT : LEFT + CROP]
            assert np.abs(pixels[slot] - stack_px).max() < 0.002  # px: FINE has levels of 0.001
    assert loader.test_batch(0).levels.shape == (25, 8, HEIGHT, WIDTH)
    with pytest.raises(UsageError, match="its stacks have length 4, not 10"):
        StackLoader(dataset, Stacking(kind))


def test_what_a_dataset_has_not() -> None:
    dataset = flow_dataset()
    dataset.settings = replace(dataset.settings, flow=replace(dataset.settings.flow, direction="forward"))
    with pytest.raises(UsageError, match=r"holds forward flow alone: .* --direction both, or let flowprep stack"):
        StackLoader(dataset, Stacking(length=4, bidirectional=True))
    dataset.settings = replace(dataset.settings, flow=replace(dataset.settings.flow, direction="backward"))
    with pytest.raises(UsageError, match="holds backward flow alone"):
        StackLoader(dataset, STACKING)
    with pytest.raises(UsageError, match=r"heighten_00\.avi: a crop of 224x224 does not fit into 64x48 .* or scales"):
        loader_of(augmentation=Augmentation(224))
    assert loader_of(augmentation=Augmentation(224, scales=(1.0,))).batch(0, 0).levels.shape[2:] == (224, 224)
    with pytest.raises(UsageError, match="on_damage"):
        loader_of(on_damage="ignore")
    with pytest.raises(UsageError, match="batch_size 0"):
        loader_of(batch_size=0)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Dataset, Path]:
    """A dataset whose first video has a field, number 5, that does not decode."""
    folder = tmp_path / "damaged.zarr"
    shutil.copytree(flow_folder(), folder)
    dataset = Dataset(folder)
    place = dataset.videos[0].row.flow
    assert place
    shard = folder / place.array / f"c/{place.start // 2048}/0/0/0"
    with ShardReader(shard) as reader:
        offset, size = reader.index[place.start % 2048 + 5].tolist()
    with shard.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    return dataset, shard


def test_damage_is_raised(damaged: tuple[Dataset, Path]) -> None:
    dataset, shard = damaged
    for workers in (0, 2):
        loader = StackLoader(dataset, STACKING, batch_size=64, augmentation=CENTRE, workers=workers)
        with pytest.raises(RefusedError) as error:
            list(loader)
        for part in (f"{dataset.videos[0].id}: field 5: {shard}", "damaged: its checksum is wrong"):
            assert part in str(error.value)


def test_damage_is_skipped(damaged: tuple[Dataset, Path], caplog: pytest.LogCaptureFixture) -> None:
    dataset, _ = damaged
    id = dataset.videos[0].id
    options = {"batch_size": 64, "augmentation": CENTRE, "on_damage": "skip"}
    loader = StackLoader(dataset, STACKING, **options)
    with caplog.at_level(logging.WARNING, "flowprep"):
        batch = loader.batch(0, 0)
    assert loader.damaged == {id: len(batch.damaged)}
    assert set(batch.damaged) == {id}
    assert sum(record.getMessage().startswith("another sample is taken") for record in caplog.records) == 1

    whole = loader_of(batch_size=64).batch(0, 0)
    replaced = [slot for slot in range(64) if not np.array_equal(whole.levels[slot], batch.levels[slot])]
    assert 1 <= len(replaced) <= len(batch.damaged)
    assert not [frame for slot, other, frame in samples(loader, batch) if other == id and 2 <= frame <= 5]
    threads = StackLoader(dataset, STACKING, workers=2, **options)
    assert_same(next(iter(threads)), batch)


def test_a_shard_file_cut_short_or_gone(damaged: tuple[Dataset, Path]) -> None:
    dataset, shard = damaged
    os.truncate(shard, shard.stat().st_size - INDEX_BYTES // 2)
    loader = StackLoader(dataset, STACKING, part="", augmentation=CENTRE)
    number = 0
    with pytest.raises(RefusedError, match=rf"{loader.sampler.clips[number].id}: fields 0 to 3: {shard}: damaged"):
        loader.test_batch(number)
    shard.unlink()
    loader = StackLoader(dataset, STACKING, part="", augmentation=CENTRE)
    with pytest.raises(RefusedError, match=rf"{shard}: this file of the dataset is missing"):
        loader.test_batch(number)
    for path in shard.parents[4].glob("c/*/0/0/0"):
        path.unlink()
    loader = StackLoader(dataset, STACKING, batch_size=1, augmentation=CENTRE, on_damage="skip")
    with pytest.raises(RefusedError, match="100 damaged samples one after the other; flowprep verify"):
        loader.batch(0, 0)
    assert sum(loader.damaged.values()) == 100


def assert_same(one: Batch, other: Batch) -> None:
    for name, value in vars(one).items():
        found = getattr(other, name)
        assert np.array_equal(value, found) if isinstance(value, np.ndarray) else value == found
