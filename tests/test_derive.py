"""Datasets made from a dataset: ``flowprep stack`` and ``flowprep transcode`` store what they say, and go on after
anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from flowprep.config import RunConfig, StackConfig, Stacking, StackingConfig, StorageConfig
from flowprep.errors import ExitCode, RefusedError, UsageError
from flowprep.flow.metrics import end_point_error
from flowprep.plan import BLOCK
from flowprep.run.changes import Changes
from flowprep.run.derived import StacksOfFields
from flowprep.stacks import (
    bidirectional_flow_stack,
    bidirectional_trajectory_stack,
    frames_of,
    optical_flow_stack,
    reach,
    trajectory_stack,
)
from flowprep.store.layout import ArrayName, shard_key, side_key
from flowprep.store.reader import Dataset
from flowprep.store.verify import verify
from flowprep.types import Placement
from tests.in_process import CLIP, FINE, SETTINGS, make_dataset, stack, transcode, write_clips

HALF = 0.0005 + 1e-5  # px: half a step of FINE, and rounding
SHORT = "more/left/left_00.avi"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both directions of flow and RGB frames of eight clips, of 5 fields of 64x48 px and of 7 of 40x32; one failed."""
    folder = tmp_path_factory.mktemp("source")
    return make_dataset(folder / "out.zarr", folder / "videos", write_clips(folder / "videos"))


@pytest.fixture(scope="module")
def forward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forward flow of three of them, and no frames."""
    folder = tmp_path_factory.mktemp("forward")
    chosen = replace(SETTINGS, flow=replace(SETTINGS.flow, direction="forward"), storage=StorageConfig(rgb=False))
    return make_dataset(folder / "out.zarr", folder / "videos", write_clips(folder / "videos")[:3], settings=chosen)


def expected(dataset: Dataset, video: str, chosen: Stacking, frame: int) -> NDArray[np.float32]:
    """The stack as the functions make it of the fields as they read."""
    flow = dataset.flow(video)
    means = dataset.stats(video)[:, :, 0] if chosen.mean_subtract else None
    options = {"stride": chosen.temporal_stride, "means": means}
    if chosen.bidirectional:
        make = bidirectional_flow_stack if chosen.kind == "flow" else bidirectional_trajectory_stack
        options["backward_means"] = (
            dataset.stats(video, direction="backward")[:, :, 0] if chosen.mean_subtract else None
        )
        return make(flow, dataset.flow(video, direction="backward"), frame, chosen.length, **options)
    make = optical_flow_stack if chosen.kind == "flow" else trajectory_stack
    start = reach(chosen, len(flow), frame).forward[0]
    return make(flow, start, chosen.length, **options)


# --- stacks ---


@pytest.mark.parametrize(
    "keys",
    [
        {"length": 3},
        {"length": 3, "mean_subtract": False},
        {"length": 3, "anchor": "centre"},
        {"length": 2, "temporal_stride": 2},
        {"length": 3, "kind": "trajectory"},
        {"length": 2, "kind": "trajectory", "temporal_stride": 3},
        {"length": 4, "bidirectional": True},
        {"length": 4, "bidirectional": True, "kind": "trajectory", "mean_subtract": False},
        {"length": 1},
    ],
    ids=str,
)
def test_stored_stacks_are_those_of_the_functions(source: Path, tmp_path: Path, keys: dict[str, object]) -> None:
    chosen = Stacking(**keys)  # type: ignore[arg-type]
    assert stack(source, tmp_path / "out.zarr", every=1, **keys).exit_code == ExitCode.OK
    fields, stacks = Dataset(source), Dataset(tmp_path / "out.zarr")
    assert [row.id for row in stacks.videos] == [row.id for row in fields.videos if row.status == "ok"]
    for row in stacks.videos:
        count = fields.videos[row.id].fields
        frames = frames_of(chosen, count)
        assert stacks.stack_frames(row.id).tolist() == list(frames) and len(frames) == row.fields
        assert (row.label, row.splits) == (fields.videos[row.id].label, fields.videos[row.id].splits)
        found = stacks.stacks(row.id)
        for k, frame in enumerate(frames):
            assert np.abs(found[k] - expected(fields, row.id, chosen, frame)).max() <= HALF
    assert verify(stacks, full=True).clean


def shrunk(plane: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """First the axes that shrink to less than half, by area; then the others."""
    narrow = width if 2 * width < plane.shape[1] else plane.shape[1]
    low = height if 2 * height < plane.shape[0] else plane.shape[0]
    return cv2.resize(cv2.resize(plane, (narrow, low), interpolation=cv2.INTER_AREA), (width, height))


@pytest.mark.parametrize("kind", ["flow", "trajectory"])
@pytest.mark.parametrize("size", ["32x40", "130x50", "16x16", "16x60"])
def test_a_resized_field_is_faster_or_slower_by_the_factor_of_each_axis(
    source: Path, tmp_path: Path, kind: str, size: str
) -> None:
    stack(source, tmp_path / "out.zarr", every=1, length=2, kind=kind, size=size)
    width, height = map(int, size.split("x"))
    fields, stacks = Dataset(source), Dataset(tmp_path / "out.zarr")
    small = np.stack([[shrunk(plane, width, height) for plane in field] for field in fields.flow(CLIP)])
    small *= np.array([width / 64, height / 48], np.float32)[:, None, None]
    means = fields.stats(CLIP)[:, :, 0] * np.array([width / 64, height / 48], np.float32)
    make = optical_flow_stack if kind == "flow" else trajectory_stack
    for k in range(stacks.videos[CLIP].fields):
        wanted = make(small, k, 2, means=means)
        assert np.abs(stacks.stacks(CLIP)[k] - wanted).max() <= HALF
        np.testing.assert_allclose(stacks.stack_means(CLIP)[k], means[k : k + 2].reshape(-1), rtol=1e-6)


def test_means_are_kept_so_that_subtracting_can_be_undone(source: Path, tmp_path: Path) -> None:
    for name, subtract in (("with", True), ("without", False)):
        stack(source, tmp_path / name, every=1, length=3, mean_subtract=subtract)
    less, whole = Dataset(tmp_path / "with"), Dataset(tmp_path / "without")
    assert np.array_equal(less.stack_means(CLIP), whole.stack_means(CLIP))
    restored = less.stacks(CLIP) + less.stack_means(CLIP)[:, :, None, None]
    assert np.abs(restored - whole.stacks(CLIP)).max() <= 2 * HALF


@pytest.mark.parametrize(
    ("keys", "frames"),
    [
        ({"length": 2, "every": 2}, [0, 2]),
        ({"length": 2}, [0, 2]),
        ({"length": 2, "per_video": 3}, [0, 1, 3]),
        ({"length": 2, "per_video": 99}, [0, 1, 2, 3]),
        ({"length": 2, "per_video": 1}, [2]),
        ({"length": 2, "anchor": "centre", "every": 1}, [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_which_stacks_of_a_video(source: Path, tmp_path: Path, keys: dict[str, object], frames: list[int]) -> None:
    stack(source, tmp_path / "out.zarr", **keys)
    assert Dataset(tmp_path / "out.zarr").stack_frames(CLIP).tolist() == frames


def test_videos_with_too_few_fields(source: Path, tmp_path: Path) -> None:
    summary = stack(source, tmp_path / "refused", length=7)
    assert summary.verdicts == {"ok": 2, "too_short": 6} and summary.exit_code == ExitCode.REFUSED
    assert summary.failures[0].reason == (
        "it has 5 fields, a stack needs 7; another dataset with --short repeat-last would repeat the last one"
    )
    assert stack(source, tmp_path / "repeated", length=7, short="repeat-last").verdicts == {"ok": 8}
    stacks, fields = Dataset(tmp_path / "repeated"), Dataset(source)
    row = stacks.videos[CLIP]
    assert (row.fields, row.reason) == (1, "5 fields, a stack needs 7: some are repeated")
    flow = fields.flow(CLIP) - fields.stats(CLIP)[:, :, 0][:, :, None, None]
    wanted = flow[[0, 1, 2, 3, 4, 4, 4]].reshape(14, 48, 64)
    assert np.abs(stacks.stacks(CLIP)[0] - wanted).max() <= HALF
    assert stacks.videos[SHORT].reason == ""


def test_backward_fields_are_computed_from_frames_where_none_are_stored(source: Path, tmp_path: Path) -> None:
    """Those of the stored frames, which are smaller and were JPEG: near the stored ones, not equal to them."""
    keys = {"length": 2, "bidirectional": True, "every": 1, "mean_subtract": False}
    stack(source, tmp_path / "stored", **keys)
    stack(source, tmp_path / "computed", backward="frames", **keys)
    stored, computed = Dataset(tmp_path / "stored"), Dataset(tmp_path / "computed")
    assert stored.settings.stack and stored.settings.stack.backward == "stored"
    assert stored.settings.fingerprint() != computed.settings.fingerprint()
    one, other = stored.stacks(CLIP), computed.stacks(CLIP)
    assert np.array_equal(one[:, :2], other[:, :2])
    assert 0 < np.median(end_point_error(other[0, 2:], one[0, 2:])) < 0.5


# --- refused ---


def test_what_cannot_be_stacked(forward: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with pytest.raises(
        RefusedError, match="neither backward flow nor RGB frames .*extract the videos with --direction"
    ):
        stack(forward, out, length=2, bidirectional=True)
    with pytest.raises(UsageError, match="--backward stored: .* has none"):
        stack(forward, out, length=2, bidirectional=True, backward="stored")
    with pytest.raises(UsageError, match=r"JPEG image of 128,000 rows, 65,500 is the most: give --codec htj2k"):
        stack(forward, out, StorageConfig(), length=32, size="16x2000")
    with pytest.raises(UsageError, match="is the dataset to read"):
        stack(forward, forward, length=2)
    with pytest.raises(UsageError, match="does not exist"):
        stack(tmp_path / "nothing", out, length=2)
    assert not out.exists()
    stack(forward, out, length=2)
    with pytest.raises(UsageError, match="holds stacks already"):
        stack(out, tmp_path / "more.zarr", length=2)
    with pytest.raises(UsageError, match=r"holds stacks, not fields: read them with stacks\(\)"):
        Dataset(out).flow(0)
    with pytest.raises(UsageError, match="holds flow, not stacks"):
        Dataset(forward).stacks(0)


def test_a_dataset_of_stacks_never_mixes_two_kinds(forward: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    stack(forward, out, length=2)
    with pytest.raises(RefusedError, match=r"stack\.kind: flow -> trajectory\n  stack\.length: 2 -> 3"):
        stack(forward, out, length=3, kind="trajectory")
    transcode(forward, tmp_path / "other.zarr", FINE)
    with pytest.raises(RefusedError, match="origins: "):
        stack(tmp_path / "other.zarr", out, length=2)


# --- transcoded ---


@pytest.mark.parametrize(
    "storage",
    [
        StorageConfig("htj2k"),
        StorageConfig("blosc"),
        StorageConfig("blosc", bits=8),
        StorageConfig(quality=70),
        StorageConfig(range="fixed", rounding="trunc"),
    ],
    ids=lambda storage: f"{storage.codec}-{storage.bits}-{storage.range}",
)
def test_transcoding_changes_nothing_but_the_levels(source: Path, tmp_path: Path, storage: StorageConfig) -> None:
    assert transcode(source, tmp_path / "out.zarr", storage).exit_code == ExitCode.OK
    old, new = Dataset(source), Dataset(tmp_path / "out.zarr")
    assert new.settings.origins == (old.settings.storage,)
    for row in new.videos:
        before = old.videos[row.id]
        assert (row.fields, row.video.label, row.splits, row.fps) == (
            before.fields,
            before.label,
            before.splits,
            before.fps,
        )
        assert np.array_equal(new.frames(row.id), old.frames(row.id))
        for direction in ("forward", "backward"):
            assert np.array_equal(new.stats(row.id, direction=direction), old.stats(row.id, direction=direction))
            error = end_point_error(new.flow(row.id, direction=direction)[0], old.flow(row.id, direction=direction)[0])
            assert error.mean() < 0.1
        assert row.row.added_epe == pytest.approx(
            np.mean(
                [
                    end_point_error(
                        new.flow(row.id, 0, 1, direction=d)[0], old.flow(row.id, 0, 1, direction=d)[0]
                    ).mean()
                    for d in ("forward", "backward")
                ]
            ),
            abs=1e-6,
        )
    assert verify(new, full=True).clean


def test_frames_may_be_left_out(source: Path, tmp_path: Path) -> None:
    transcode(source, tmp_path / "out.zarr", StorageConfig("htj2k", rgb=False))
    with pytest.raises(UsageError, match="its RGB frames were not stored"):
        Dataset(tmp_path / "out.zarr").frames(CLIP)


def test_stacks_can_be_transcoded_and_transcoded_flow_be_stacked(source: Path, tmp_path: Path) -> None:
    stack(source, tmp_path / "stacks", length=3, every=1)
    transcode(tmp_path / "stacks", tmp_path / "small", StorageConfig("htj2k"))
    one, other = Dataset(tmp_path / "stacks"), Dataset(tmp_path / "small")
    assert other.settings.stack == one.settings.stack and len(other.settings.origins) == 2
    assert np.array_equal(one.stack_means(CLIP), other.stack_means(CLIP))
    assert np.array_equal(one.stack_frames(CLIP), other.stack_frames(CLIP))
    assert np.abs(one.stacks(CLIP) - other.stacks(CLIP)).mean() < 0.05
    transcode(source, tmp_path / "fine", FINE)
    stack(tmp_path / "fine", tmp_path / "again", length=3, every=1)
    assert np.abs(Dataset(tmp_path / "again").stacks(CLIP) - one.stacks(CLIP)).max() <= 2 * HALF


# --- what others read ---


@pytest.mark.parametrize("storage", [StorageConfig(), StorageConfig("htj2k"), FINE], ids=lambda s: s.codec)
def test_plain_zarr_reads_stacks(source: Path, tmp_path: Path, storage: StorageConfig) -> None:
    stack(source, tmp_path / "out.zarr", storage, length=3, every=1)
    dataset, group = Dataset(tmp_path / "out.zarr"), zarr.open_group(tmp_path / "out.zarr", mode="r")
    columns = {name: array[:] for name, array in group["videos"].members()}
    row = list(columns["id"]).index(CLIP)
    name, start, length = (columns[key][row] for key in ("array", "start", "length"))
    assert (name, length) == ("stack_6x48x64", 3)
    rows = slice(int(start), int(start + length))
    scale, zero = (np.tile(group[f"{name}_{side}"][rows], 3)[:, :, None, None] for side in ("scale", "zero"))
    pixels = (group[name][rows].astype(np.float32) - zero) * scale
    assert np.array_equal(pixels, dataset.stacks(CLIP))
    assert group[f"{name}_frame"][rows].tolist() == [0, 1, 2]
    assert np.array_equal(group[f"{name}_mean"][rows], dataset.stack_means(CLIP))
    settings = group.attrs["flowprep"]["settings"]
    assert settings["stack"]["length"] == 3 and len(settings["origins"]) == 1
    assert json.loads(json.dumps(settings)) == dataset.settings.to_json()


# --- damage ---


def spoil(dataset: Path, place: Placement, change: Callable[[bytearray], None]) -> Path:
    """Change the file that ``place`` lies in."""
    path = dataset / shard_key(place.array, place.start // BLOCK)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def test_damage_of_the_source_is_the_failure_of_one_video(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "in.zarr")
    place = Dataset(source).videos[CLIP].row.flow
    assert place
    payloads = Dataset(source).rows.payloads
    third = payloads(ArrayName.parse(place.array), [place.start + 2])[0]

    def blank(data: bytearray) -> None:
        at = data.index(third)
        data[at : at + 40] = bytes(40)

    path = spoil(tmp_path / "in.zarr", place, blank)
    summary = stack(tmp_path / "in.zarr", tmp_path / "out.zarr", length=2, every=1)
    assert summary.verdicts == {"ok": 7, "corrupt_frames": 1}
    (failure,) = summary.failures
    assert failure.id == CLIP and failure.reason.startswith(f"field 2: {path}: row {place.start + 2} of ")
    assert any(
        str(path.relative_to(tmp_path / "in.zarr")) in fault for fault in verify(Dataset(tmp_path / "in.zarr")).faults
    )
    with pytest.raises(RefusedError, match=rf"{CLIP}: field 2: {path}"):
        Dataset(tmp_path / "in.zarr").flow(CLIP)


def test_a_shard_of_stacks_that_was_cut_short(source: Path, tmp_path: Path) -> None:
    stack(source, tmp_path / "out.zarr", StorageConfig(), length=3, every=1)
    place = Dataset(tmp_path / "out.zarr").videos[CLIP].row.flow
    assert place
    path = spoil(tmp_path / "out.zarr", place, lambda data: data.__delitem__(slice(len(data) // 2, None)))
    report = verify(Dataset(tmp_path / "out.zarr"))
    assert any("were committed; its commit record is" in fault for fault in report.faults)
    with pytest.raises(RefusedError, match=rf"{CLIP}: stacks 0 to 2: {path}: damaged"):
        Dataset(tmp_path / "out.zarr").stacks(CLIP)


def test_a_source_that_was_made_anew_meanwhile_is_not_mixed_in(tmp_path: Path) -> None:
    """The same ids, as many commits, other videos: as on a worker that lives long, or between two tasks of an array."""
    videos = [video for video in write_clips(tmp_path / "videos") if video.id in (CLIP, SHORT)]
    one = make_dataset(tmp_path / "in.zarr", tmp_path / "videos", videos)
    transcode(one, tmp_path / "first.zarr", FINE)
    shutil.rmtree(one)
    swapped = [replace(videos[0], size=videos[1].size), replace(videos[1], size=videos[0].size)]
    first, second = (tmp_path / "videos" / video.id for video in videos)
    aside = first.rename(tmp_path / "aside")
    second.rename(first)
    aside.rename(second)
    make_dataset(one, tmp_path / "videos", swapped)
    transcode(one, tmp_path / "again.zarr", FINE)
    for video in videos:
        error = np.abs(Dataset(tmp_path / "again.zarr").flow(video.id) - Dataset(one).flow(video.id))
        assert error.max() <= HALF
    (commit,) = (tmp_path / "first.zarr/.flowprep/commits").iterdir()
    commit.unlink()
    with pytest.raises(RefusedError, match="has changed since this dataset was planned: .* with --extend"):
        transcode(one, tmp_path / "first.zarr", FINE)
    planned = Dataset(tmp_path / "first.zarr").plans
    source = StacksOfFields(StackingConfig(str(one), stack=StackConfig(length=2))).source(lambda _: None)
    with pytest.raises(RefusedError, match="New or of another size"):
        Changes(source, planned, {}, RunConfig()).refuse("it")


def test_stacks_too_tall_for_a_jpeg_image_are_refused_before_anything_is_written(forward: Path, tmp_path: Path) -> None:
    stack(forward, tmp_path / "tall.zarr", StorageConfig("htj2k"), length=5, size="16x6600")
    with pytest.raises(UsageError, match="JPEG image of 66,000 rows, 65,500 is the most: give --codec htj2k"):
        transcode(tmp_path / "tall.zarr", tmp_path / "out.zarr", StorageConfig())
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("side", ["scale", "stats"])
def test_damaged_side_values_are_found(source: Path, tmp_path: Path, side: str) -> None:
    shutil.copytree(source, tmp_path / "in.zarr")
    place = Dataset(source).videos[CLIP].row.flow
    assert place
    path = tmp_path / "in.zarr" / side_key(ArrayName.parse(place.array), side, place.start // BLOCK)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    summary = transcode(tmp_path / "in.zarr", tmp_path / "out.zarr", FINE)
    assert all(str(path) in row.reason and row.verdict == "corrupt_frames" for row in summary.failures)
    assert CLIP in {row.id for row in summary.failures}
