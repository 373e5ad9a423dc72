"""What every codec of flow promises: fields and stacks come back, through Zarr too; damage and forgery are refused."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep.codecs import FieldCodec, field_codec
from flowprep.config import StorageConfig
from flowprep.errors import RefusedError
from flowprep.opencv import load
from flowprep.quantise import dequantise, quantise
from flowprep.store.checksums import with_checksum, without_checksum
from flowprep.store.shardfile import SLOTS, ShardWriter
from flowprep.store.zarr_codec import encoding

STORAGES = {
    "jpeg": StorageConfig(),
    "jpeg-fixed": StorageConfig(range="fixed"),
    "htj2k": StorageConfig(codec="htj2k"),
    "blosc16": StorageConfig(codec="blosc"),
    "blosc8": StorageConfig(codec="blosc", bits=8),
}
# px that the mean end-point error of the fields below may reach
MEAN_ERROR = {"jpeg": 0.1, "jpeg-fixed": 0.15, "htj2k": 0.06, "blosc16": 0.0625, "blosc8": 0.15}
SHAPES = [(2, 48, 64), (2, 17, 31), (20, 24, 40), (4, 16, 16)]

every_codec = pytest.mark.parametrize("name", STORAGES)


def flow(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """Smooth motion of a few px with a sharp edge: (1, *shape)."""
    channels, height, width = shape
    random = np.random.default_rng(seed)
    cv2 = load()
    planes = [cv2.GaussianBlur(random.normal(0, 20, (height, width)), (0, 0), 6) for _ in range(channels)]
    stack = np.stack(planes).astype(np.float32)
    stack[:, height // 2 :, : width // 3] += random.uniform(-4, 4, (channels, 1, 1))
    return stack[None]


def stored(name: str, shape: tuple[int, int, int], seed: int = 0) -> tuple[FieldCodec, bytes, NDArray[Any]]:
    """A codec, a payload, and the levels that it decodes to."""
    codec = field_codec(STORAGES[name])
    quantised = quantise(flow(shape, seed), STORAGES[name])
    payload = codec.encode(quantised.levels[0], quantised.scale[0])
    return codec, payload, codec.decode(payload, shape)


@every_codec
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fields_and_stacks_come_back(name: str, shape: tuple[int, int, int]) -> None:
    original = flow(shape)
    quantised = quantise(original, STORAGES[name])
    codec, payload, levels = stored(name, shape)
    assert quantised.levels.dtype == levels.dtype == codec.dtype
    assert levels.shape == shape
    error = (dequantise(levels[None], quantised.scale, quantised.zero) - original).reshape(-1, 2, *shape[1:])
    assert np.sqrt((error**2).sum(axis=1)).mean() <= MEAN_ERROR[name]
    if name.startswith("blosc"):
        assert (levels == quantised.levels[0]).all(), "nothing is lost behind the quantiser"
    assert codec.encode(quantised.levels[0], quantised.scale[0]) == payload, "the same levels give the same bytes"


@every_codec
def test_no_motion_is_exactly_none(name: str) -> None:
    still = quantise(np.zeros((1, 2, 40, 56), np.float32), STORAGES[name])
    codec = field_codec(STORAGES[name])
    levels = codec.decode(codec.encode(still.levels[0], still.scale[0]), (2, 40, 56))
    assert (dequantise(levels[None], still.scale, still.zero) == 0).all()
    if name != "jpeg":  # whose zero belongs to each field
        assert (levels == codec.zero_level).all()


@every_codec
def test_rows_decode_in_place(name: str) -> None:
    codec, payload, levels = stored(name, SHAPES[0])
    rows = np.full((3, *levels.shape), 77, codec.dtype)
    assert np.shares_memory(codec.decode(memoryview(payload), levels.shape, rows[1]), rows)
    assert (rows[1] == levels).all() and (rows[[0, 2]] == 77).all()


@every_codec
@pytest.mark.parametrize("shape", [(2, 48, 64), (20, 24, 40)], ids=["field", "stack"])
def test_plain_zarr_reads_the_payloads_of_a_shard_file(name: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    found = [stored(name, shape, seed) for seed in range(2)]
    (tmp_path / "array/c/0/0/0").mkdir(parents=True)
    writer = ShardWriter(tmp_path / "array/c/0/0/0/0")
    for slot, (_, payload, _) in zip((0, 7), found, strict=True):
        writer.append(slot, with_checksum(payload))
    writer.finish()
    array = zarr.create_array(
        tmp_path / "array",
        shape=(SLOTS, *shape),
        chunks=(1, *shape),
        shards=(SLOTS, *shape),
        **encoding(STORAGES[name]),
    )
    for slot, (codec, _, levels) in zip((0, 7), found, strict=True):
        assert (array[slot] == levels).all()
        assert array.dtype == codec.dtype and (array[1] == codec.zero_level).all()


@every_codec
def test_zarr_writes_what_the_codec_reads(name: str, tmp_path: Path) -> None:
    shape = (4, 16, 24)
    rows = quantise(flow(shape), STORAGES[name]).levels
    array = zarr.create_array(tmp_path / "array", shape=(1, *shape), chunks=(1, *shape), **encoding(STORAGES[name]))
    array[:] = rows
    payload = without_checksum((tmp_path / "array/c/0/0/0/0").read_bytes())
    assert (field_codec(STORAGES[name]).decode(payload, shape) == array[0]).all()
    assert np.abs(array[0].astype(int) - rows[0]).max() <= (150 if name == "htj2k" else 12)


# --- what is refused ---


@every_codec
@given(cut=st.integers(0, 10_000))
@settings(deadline=None, max_examples=40)
def test_truncated_rows_are_refused(name: str, cut: int) -> None:
    codec, payload, levels = stored(name, SHAPES[0])
    with pytest.raises(RefusedError):
        codec.decode(payload[: cut % len(payload)], levels.shape)


@every_codec
@given(data=st.binary(max_size=400))
@settings(deadline=None, max_examples=40)
def test_garbage_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(RefusedError):
        field_codec(STORAGES[name]).decode(data, SHAPES[0])


@every_codec
@pytest.mark.parametrize("other", ["jpeg", "htj2k", "blosc8"])
def test_rows_of_another_codec_are_refused(name: str, other: str) -> None:
    _, payload, levels = stored(other, SHAPES[0])
    if not name.startswith(other[:5]):
        with pytest.raises(RefusedError):
            field_codec(STORAGES[name]).decode(payload, levels.shape)


@every_codec
@pytest.mark.parametrize("shape", [(2, 48, 63), (2, 47, 64), (2, 64, 48), (4, 48, 64), (2, 60_000, 30_000)], ids=str)
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, int, int]) -> None:
    codec, payload, _ = stored(name, SHAPES[0])
    if name.startswith("blosc") and np.prod(shape) == np.prod(SHAPES[0]):
        return  # Blosc knows bytes, not shapes
    with pytest.raises(RefusedError, match="its array says"):
        codec.decode(payload, shape)


MUTANTS = """
import random, sys
from flowprep.errors import RefusedError
from tests.test_codecs_contract import SHAPES, STORAGES, stored
codec, payload, levels = stored(sys.argv[1], SHAPES[0])
refused = 0
for seed in range(400):
    luck, mutant = random.Random(seed), bytearray(payload)
    for _ in range(luck.randint(1, 3)):
        at = luck.choice((luck.randrange(len(mutant)), luck.randrange(64)))
        mutant[at] = (mutant[at] + luck.randrange(1, 256)) % 256
    try:
        back = codec.decode(bytes(mutant), levels.shape)
        assert back.shape == levels.shape and back.dtype == levels.dtype
    except RefusedError:
        refused += 1
print(refused)
"""


@every_codec
def test_damage_is_refused_or_gives_an_array_of_the_right_size(name: str) -> None:
    """In a process of its own, which must not crash. What goes through here is what checksums are for."""
    run = subprocess.run(
        [sys.executable, "-c", MUTANTS, name],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) > 40


def test_no_damage_gets_past_the_checksum() -> None:
    luck, data = random.Random(0), random.Random(1).randbytes(5000)
    row = with_checksum(data)
    assert without_checksum(row) == data
    for _ in range(300):
        mutant = bytearray(row)
        at, length = luck.randrange(len(row)), luck.randint(1, 16)
        mutant[at : at + length] = luck.randbytes(min(length, len(row) - at))
        for damaged in {bytes(mutant), row[: luck.randrange(len(row))]} - {row}:
            with pytest.raises(RefusedError, match="damaged: its checksum is wrong"):
                without_checksum(damaged)
