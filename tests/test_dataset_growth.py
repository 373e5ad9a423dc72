"""Datasets that grow, move, are repaired and are made again: what every reader sees afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

import flowprep
from flowprep.encode import RowFile
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset
from flowprep.store.summary import content_fingerprint, summarise
from flowprep.store.verify import verify
from flowprep.types import Video
from tests.command import stored_files
from tests.in_process import CLIP, FAILED, extract, finish, make_dataset, plan_more, write_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips") / "videos"


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[Video]:
    """One that is no video, two clips of one size and one of another."""
    return write_clips(folder)[:4]


@pytest.fixture(scope="module")
def dataset(folder: Path, videos: list[Video], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return flowprep.open(make_dataset(tmp_path_factory.mktemp("data") / "out.zarr", folder, videos))


def test_an_unfinished_dataset_opens(folder: Path, videos: list[Video], tmp_path: Path, dataset: Dataset) -> None:
    out = tmp_path / "out.zarr"
    plan = plan_more(out, folder, videos)
    empty = flowprep.open(out)
    assert len(empty.videos) == 0 and summarise(empty).ratio == 0 and not verify(empty).clean
    extract(out, plan, [1])
    partly = flowprep.open(out)
    assert [row.id for row in partly.videos] == sorted(video.id for video in plan.shards[1].videos)
    for row in partly.videos:
        assert row.fields == 0 or (partly.flow(row.id) == dataset.flow(row.id)).all()
    assert summarise(partly).unfinished_shards == len(plan.shards) - 1
    assert f"{len(plan.shards) - 1} of {len(plan.shards)} shards are not committed" in verify(partly).unfinished
    extract(out, plan)
    finish(out)
    assert verify(flowprep.open(out)).clean


def test_only_the_dataset_need_be_moved(folder: Path, videos: list[Video], tmp_path: Path, dataset: Dataset) -> None:
    shutil.copytree(folder, tmp_path / "videos")
    out = make_dataset(tmp_path / "here/out.zarr", tmp_path / "videos", videos)
    shutil.move(out, tmp_path / "there.zarr")
    shutil.rmtree(tmp_path / "videos")
    moved = flowprep.open(tmp_path / "there.zarr")
    assert verify(moved, full=True).clean
    assert (moved.flow(CLIP) == dataset.flow(CLIP)).all()
    assert zarr.open(tmp_path / "there.zarr", mode="r")["videos/id"][:].tolist() == [row.id for row in moved.videos]


def test_the_newest_outcome_is_in_force(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    """A repaired video is extracted again: its row, its label and its reason change for every reader."""
    shutil.copytree(folder, tmp_path / "videos")
    out = make_dataset(tmp_path / "out.zarr", tmp_path / "videos", videos)
    before = flowprep.open(out)
    failed = before.videos[FAILED]
    assert failed.row.reason
    shutil.copy(folder / CLIP, tmp_path / "videos" / FAILED)
    make_dataset(out, tmp_path / "videos", [Video(FAILED, "repaired", size=(folder / CLIP).stat().st_size)])
    after = flowprep.open(out)
    assert after.videos[FAILED].status == "ok" and after.videos[FAILED].label == "repaired"
    assert (after.flow(FAILED) == after.flow(CLIP)).all()
    assert len(after.videos) == len(before.videos)
    assert verify(after, full=True).clean
    table = zarr.open(out, mode="r")["videos"]
    assert set(table["status"][:]) == {"ok"} and set(table["reason"][:]) == {""}
    assert summarise(after).verdicts == {"ok": 4}


def test_finalising_again_changes_no_byte(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    out = make_dataset(tmp_path / "out.zarr", folder, videos)
    before = stored_files(out)
    finish(out)
    assert stored_files(out) == before
    (out / "zarr.json").unlink()
    (out / "flow_48x64/zarr.json").write_text("{}")
    finish(out)
    assert stored_files(out) == before


# --- the fingerprint of the content ---


def test_equal_content_has_equal_fingerprints_however_it_was_made(
    folder: Path, videos: list[Video], tmp_path: Path, dataset: Dataset
) -> None:
    single = make_dataset(tmp_path / "single.zarr", folder, videos, per_shard=1)
    grown = make_dataset(tmp_path / "grown.zarr", folder, videos[::2], per_shard=9)
    make_dataset(grown, folder, videos[1::2], per_shard=9)
    expected = content_fingerprint(dataset)
    for path in (single, grown):
        other = flowprep.open(path)
        assert [row.row.flow for row in other.videos] != [row.row.flow for row in dataset.videos], "it lies elsewhere"
        assert content_fingerprint(other) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda videos, _: videos[:-1],
        lambda videos, _: [*videos[:-1], Video(videos[-1].id, "another label", size=videos[-1].size)],
        lambda videos, _: [
            *videos[:-1],
            Video(videos[-1].id, videos[-1].label, ("test", "", ""), videos[-1].size),
        ],
        lambda videos, folder: shutil.copy(folder / videos[2].id, folder / videos[1].id) and videos,
    ],
    ids=["a video less", "a label", "a split", "another file under the same name"],
)
def test_other_content_has_another_fingerprint(
    folder: Path,
    videos: list[Video],
    tmp_path: Path,
    dataset: Dataset,
    change: Callable[[list[Video], Path], list[Video]],
) -> None:
    shutil.copytree(folder, tmp_path / "videos")
    changed = change(videos, tmp_path / "videos")
    other = flowprep.open(make_dataset(tmp_path / "other.zarr", tmp_path / "videos", changed))
    assert content_fingerprint(other) != content_fingerprint(dataset)


def test_one_byte_more_or_less_is_other_content(tmp_path: Path) -> None:
    """Of a payload, of a side value, or of where one row ends and the next begins."""
    side = np.zeros(2, np.float32)
    rows = [
        ([b"abc", b"de"], side, "flow"),
        ([b"abc", b"dE"], side, "flow"),
        ([b"ab", b"cde"], side, "flow"),
        ([b"abc", b"de", b""], side, "flow"),
        ([b"abc", b"de"], np.nextafter(side, np.float32(1)), "flow"),
        ([b"abc", b"de"], side, "flow_backward"),
    ]
    digests = []
    for payloads, values, kind in rows:
        file = RowFile(tmp_path, ArrayName(kind, 16, 16))
        for payload in payloads:
            file.append(payload, scale=values, zero=side, stats=side)
        digests.append(file.digest)
        file.finish()
    assert len(set(digests)) == len(rows)
