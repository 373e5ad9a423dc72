"""The same batches for any number of processes, however they start; pixels on the device as in NumPy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flowprep.config import Stacking
from flowprep.errors import UsageError
from flowprep.stacks.augment import Augmentation
from flowprep.stacks.loader import StackLoader
from tests.loader_data import CROP, STACKING, flow_dataset

torch = pytest.importorskip("torch")

from flowprep.stacks.torch_loader import (  # noqa: E402 - it needs torch
    TENSORS,
    Epochs,
    TensorBatch,
    VideosForTesting,
    data_loader,
    tensors,
    to_pixels,
)


def stack_loader(codec: str = "jpeg", stacking: Stacking | None = STACKING, **options: object) -> StackLoader:
    settings = {"batch_size": 6, "batches": 4, "augmentation": Augmentation(CROP)} | options
    return StackLoader(flow_dataset(codec), stacking, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference() -> list[TensorBatch]:
    """Two epochs of four batches."""
    loader = stack_loader()
    return [tensors(loader.batch(epoch, number)) for epoch in range(2) for number in range(4)]


@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "fork"), (2, "fork"), (2, "spawn")])
def test_batches_do_not_depend_on_workers(reference: list[TensorBatch], workers: int, context: str | None) -> None:
    batches = data_loader(stack_loader(), workers=workers, context=context)
    assert len(batches) == 4
    assert_same([batch for _ in range(2) for batch in batches], reference)


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork")])
def test_going_on_in_the_middle_of_an_epoch(reference: list[TensorBatch], workers: int, context: str | None) -> None:
    last = reference[2]
    start = (last.position[0], last.position[1] + 1)
    batches = data_loader(stack_loader(), workers=workers, context=context, start=start)
    assert_same([*batches, *batches], reference[3:])


def test_behind_the_last_batch_comes_the_next_epoch() -> None:
    assert list(Epochs(4, (0, 4))) == [(1, n) for n in range(4)]
    assert list(Epochs(4, (2, 3))) == [(2, 3)]
    with pytest.raises(UsageError, match="0 to 3"):
        Epochs(4, (0, 5))


@pytest.mark.parametrize("codec", ["jpeg", "htj2k", "blosc"])
def test_pixels_are_those_of_numpy(codec: str) -> None:
    loader = stack_loader(codec)
    batch = loader.batch(0, 0)
    pixels = to_pixels(tensors(batch))
    assert pixels.dtype == torch.float32
    assert np.abs(pixels.numpy()).max() > 0.3
    assert np.array_equal(pixels.numpy(), batch.numpy())
    half = to_pixels(tensors(batch), dtype=torch.bfloat16)
    assert torch.equal(half, pixels.to(torch.bfloat16))


def test_integers_travel() -> None:
    """Through worker processes, in the type in which they are stored."""
    for codec, dtype in (("jpeg", torch.uint8), ("htj2k", torch.uint16), ("blosc", torch.int16)):
        loader = stack_loader(codec, batches=1)
        (batch,) = data_loader(loader, workers=1, context="fork")
        assert batch.levels.dtype == dtype
        assert np.array_equal(batch.levels.numpy(), loader.batch(0, 0).levels)


def test_tests_of_whole_videos() -> None:
    loader = stack_loader()
    videos = VideosForTesting(loader)
    assert len(videos) == 5
    assert videos[1].levels.shape[:2] == (25, 8)
    assert set(videos[1].videos.tolist()) == {1}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_batches_on_a_gpu() -> None:
    for codec in ("jpeg", "htj2k"):
        loader = stack_loader(codec)
        batches: Iterator[TensorBatch] = iter(data_loader(loader, workers=1, pin_memory=True))
        batch = next(batches)
        assert batch.levels.is_pinned()
        assert np.abs(to_pixels(batch, "cuda").cpu().numpy() - loader.batch(0, 0).numpy()).max() < 1e-5


def assert_same(found: list[TensorBatch], expected: list[TensorBatch]) -> None:
    assert [batch.position for batch in found] == [batch.position for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in TENSORS)
