"""Reading a dataset, with flowprep and with plain Zarr: the same rows, any slice, and errors that say what to do."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import flowprep
from flowprep import codecs
from flowprep.config import StorageConfig
from flowprep.encode import RowFile
from flowprep.errors import RefusedError, UsageError, Verdict
from flowprep.flow import configured
from flowprep.plan import estimate, make_plan
from flowprep.quantise import dequantise
from flowprep.shard import BlockFiles, publish
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import Commit
from flowprep.store.layout import ArrayName
from flowprep.store.plans import write_plan
from flowprep.store.reader import Dataset
from flowprep.store.shardfile import SLOTS
from flowprep.store.verify import verify
from flowprep.types import LedgerRow, Placement, Probe, Video
from flowprep.video import VideoReader
from tests.in_process import CLIP, FAILED, SETTINGS, finish, make_dataset, write_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips") / "videos"


@pytest.fixture(scope="module")
def videos(folder: Path) -> list[Video]:
    return write_clips(folder)


@pytest.fixture(scope="module")
def path(folder: Path, videos: list[Video], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "out.zarr", folder, videos)


@pytest.fixture(scope="module")
def dataset(path: Path) -> Dataset:
    return flowprep.open(path)


# --- what plain Zarr sees ---


def test_plain_zarr_reads_the_same_without_a_warning(path: Path, dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(path, mode="r")
        good = [row for row in dataset.videos if row.fields]
        assert len(good) == 8
        for row in good:
            flow, frames = row.row.flow, row.row.frames
            assert flow and frames
            rows = slice(flow.start, flow.start + flow.length)
            size = flow.array.removeprefix("flow_")
            for direction, name in (("forward", f"flow_{size}"), ("backward", f"flow_backward_{size}")):
                levels, scale, zero = (group[name + side][rows] for side in ("", "_scale", "_zero"))
                assert (levels == dataset.levels(row.id, direction=direction)).all()
                assert (dequantise(levels, scale, zero) == dataset.flow(row.id, direction=direction)).all()
                assert (group[f"{name}_stats"][rows] == dataset.stats(row.id, direction=direction)).all()
            images = group[frames.array][frames.start : frames.start + frames.length]
            assert images.shape[1:] == (3, 32, 43 if size == "48x64" else 40) and images.dtype == np.uint8
            assert (images == dataset.frames(row.id)).all()


def test_shapes_and_attributes_say_what_is_what(path: Path) -> None:
    group = zarr.open(path, mode="r")
    flow = group["flow_48x64"]
    assert flow.shape[0] % SLOTS == 0 and flow.shape[1:] == (2, 48, 64)
    assert flow.chunks == (1, 2, 48, 64) and flow.shards == (SLOTS, 2, 48, 64)
    assert flow.metadata.dimension_names == ("field", "component", "y", "x")
    assert flow.attrs["component"] == ["u", "v"] and flow.attrs["direction"] == "forward"
    assert group["flow_backward_48x64"].attrs["direction"] == "backward"
    assert group["flow_48x64_scale"].shape == group["flow_48x64_zero"].shape == (flow.shape[0], 2)
    assert group["flow_48x64_stats"].shape == (flow.shape[0], 2, 3)
    about = group.attrs["flowprep"]
    assert about["settings"] == SETTINGS.to_json() and about["settings_fingerprint"] == SETTINGS.fingerprint()
    assert "+x right" in about["conventions"]["flow"]


def test_rows_that_nobody_owns_are_no_motion(path: Path, dataset: Dataset) -> None:
    group = zarr.open(path, mode="r")
    owned = {(row.row.flow.array, row.row.flow.start + i) for row in dataset.videos if row.row.flow for i in range(7)}
    free = next(i for i in range(SLOTS) if ("flow_48x64", i) not in owned)
    for row in (free, -1):
        assert (group["flow_48x64"][row] == 128).all()
        assert (group["flow_48x64_scale"][row] == 0).all(), "so that every level is 0 px"
        assert (group["frames_32x43"][row] == 0).all()


def test_the_table_of_videos(path: Path, dataset: Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = zarr.open(path, mode="r")["videos"]
        columns = {name: array[:].tolist() for name, array in table.arrays()}
    rows = list(dataset.videos)
    assert columns["id"] == [row.id for row in rows] == sorted(row.id for row in rows)
    assert len(rows) == 9
    assert all(isinstance(text, str) for name in ("id", "label", "split1", "status") for text in columns[name])
    assert columns["label"] == [row.label for row in rows] and "Grüße, 世界" in columns["label"]
    assert [columns[f"split{k}"][:2] for k in (1, 2, 3)] == [["train", "test"], ["test", "train"], ["", "val"]]
    assert columns["status"] == [row.status for row in rows] and set(columns["status"]) == {"ok", "undecodable"}
    assert columns["start"] == [row.row.flow.start if row.row.flow else -1 for row in rows]
    assert columns["length"] == [row.fields for row in rows] and set(columns["length"]) == {0, 5, 7}
    assert columns["frames_length"] == [row.fields + 1 if row.fields else 0 for row in rows]
    assert columns["array"][rows.index(dataset.videos[FAILED])] == ""
    assert "not a video" in columns["reason"][rows.index(dataset.videos[FAILED])]
    assert {table[name].dtype for name in ("start", "length", "width", "height", "frames_start")} == {np.dtype("int64")}
    assert all(len(digest) == 64 for digest in columns["sha256"])


def test_all_metadata_is_in_one_file(path: Path) -> None:
    group = zarr.open_consolidated(path)
    assert group.metadata.consolidated_metadata
    assert {name for name, _ in group.arrays()} >= {"flow_48x64", "flow_32x40_stats", "frames_32x43"}
    assert group["videos/id"].shape == (9,)


@pytest.mark.skipif(
    not os.environ.get("FLOWPREP_STOCK_PYTHON"),
    reason="FLOWPREP_STOCK_PYTHON names no interpreter with zarr and imagecodecs-zarr, but without flowprep",
)
def test_zarr_without_flowprep_reads_the_same(path: Path, dataset: Dataset) -> None:
    place = dataset.videos[CLIP].row.flow
    assert place
    code = (
        "import sys, importlib.util, zarr; assert not importlib.util.find_spec('flowprep')\n"
        "group = zarr.open(sys.argv[1], mode='r'); first, last = int(sys.argv[2]), int(sys.argv[3])\n"
        "rows = [group['flow_48x64'][first:last].tobytes(), group['flow_48x64_scale'][first:last].tobytes()]\n"
        "rows += [group['frames_32x43'][0].tobytes(), group['videos/id'][:][0].encode()]\n"
        "sys.stdout.buffer.write(b''.join(rows))"
    )
    read = subprocess.run(
        [os.environ["FLOWPREP_STOCK_PYTHON"], "-I", "-c", code, path, str(place.start), str(place.start + 5)],
        capture_output=True,
        check=False,
    )
    assert read.returncode == 0, read.stderr.decode()
    group = zarr.open(path, mode="r")
    ours = [dataset.levels(CLIP).tobytes(), group["flow_48x64_scale"][place.start : place.start + 5].tobytes()]
    assert read.stdout == b"".join([*ours, group["frames_32x43"][0].tobytes(), dataset.videos[0].id.encode()])


# --- reading with flowprep ---


@given(start=st.integers(-9, 9), stop=st.none() | st.integers(-9, 9), video=st.sampled_from([CLIP, f"more/{CLIP}"]))
@settings(deadline=None, max_examples=50)
def test_slices_are_pythons(dataset: Dataset, start: int, stop: int | None, video: str) -> None:
    for read in (dataset.flow, dataset.levels, dataset.stats, dataset.frames):
        part, whole = read(video, start, stop), read(video)[start:stop]
        assert part.shape == whole.shape and part.dtype == whole.dtype
        assert (part == whole).all()


def test_arrays_have_the_documented_shapes(dataset: Dataset) -> None:
    assert dataset.flow(CLIP).shape == (5, 2, 48, 64) and dataset.flow(CLIP).dtype == np.float32
    assert dataset.levels(CLIP).shape == (5, 2, 48, 64) and dataset.levels(CLIP).dtype == np.uint8
    assert dataset.stats(CLIP).shape == (5, 2, 3) and dataset.stats(CLIP).dtype == np.float32
    assert dataset.frames(CLIP).shape == (6, 3, 32, 43) and dataset.frames(CLIP).dtype == np.uint8
    assert dataset.flow(CLIP, 3, 3).shape == (0, 2, 48, 64)


def test_a_video_over_several_files_reads_as_one(tmp_path: Path) -> None:
    """4,100 fields, too many for two files; field i is grey level i % 256 everywhere."""
    fields, size = 2 * SLOTS + 4, ArrayName("flow", 16, 16)
    settings = replace(SETTINGS, flow=replace(SETTINGS.flow, direction="forward"), storage=StorageConfig(rgb=False))
    video = Video("long.avi", size=1)
    guess = estimate(video, Probe(16, 16, fields + 1, 25.0), settings)
    plan = make_plan([(video, guess)], settings, "/", seconds=lambda _: 1.0)
    store = LocalStore(tmp_path / "out.zarr")
    write_plan(store, plan)
    rows = RowFile(tmp_path, size)
    payloads = [codecs.encode_field(np.full((2, 16, 16), level, np.uint8), 1) for level in range(256)]
    for i in range(fields):
        side = np.array([i, -i], np.float32)
        rows.append(payloads[i % 256], scale=side, zero=side, stats=np.stack([side] * 3, axis=1))
    rows.finish()
    with store.scratch() as scratch:
        blocks = BlockFiles(scratch, plan, 0)
        row = LedgerRow(video.id, Verdict.OK, flow=Placement(str(size), 0, fields))
        row = blocks.add(row, tmp_path)
        files = blocks.finish()
        about = {"attempt": "", "host": "", "seconds": 0.0}
        publish(store, Commit(0, 0, settings.fingerprint(), tuple(item for item, _ in files), (row,), **about), files)
    finish(tmp_path / "out.zarr")
    dataset = flowprep.open(tmp_path / "out.zarr")
    assert verify(dataset).clean and len(files) == 4 * 3
    expected = np.arange(fields)
    for start, stop in ((0, None), (SLOTS - 2, SLOTS + 2), (SLOTS, SLOTS + 1), (2 * SLOTS - 1, None), (-5, -3)):
        assert (dataset.levels(0, start, stop)[:, 1, 5, 5] == expected[start:stop] % 256).all()
        assert (dataset.stats(0, start, stop)[:, 0, 2] == expected[start:stop]).all()
        assert (
            dataset.flow(0, start, stop)[:, 0, 0, 0] == (expected % 256 - expected)[start:stop] * expected[start:stop]
        ).all()
    group = zarr.open(tmp_path / "out.zarr", mode="r")
    assert (group[str(size)][SLOTS - 2 : SLOTS + 2] == dataset.levels(0, SLOTS - 2, SLOTS + 2)).all()


def test_stats_are_of_the_flow_before_it_was_stored(dataset: Dataset, folder: Path) -> None:
    reader = VideoReader(folder / CLIP, SETTINGS.video, SETTINGS.storage)
    frames = np.concatenate([block.grey for block in reader.blocks()])
    for direction in ("forward", "backward"):
        algorithm = configured(SETTINGS.flow)
        flow = (algorithm.flow if direction == "forward" else algorithm.backward)(frames)
        mean, low, high = np.moveaxis(dataset.stats(CLIP, direction=direction), -1, 0)
        assert np.abs(mean - flow.mean(axis=(2, 3), dtype=np.float64)).max() < 1e-6
        assert (low == flow.min(axis=(2, 3))).all() and (high == flow.max(axis=(2, 3))).all()


def test_videos_by_id_and_by_number(dataset: Dataset) -> None:
    number = [row.id for row in dataset.videos].index(CLIP)
    for key in (number, number - len(dataset.videos), np.int64(number)):
        assert (dataset.flow(key) == dataset.flow(CLIP)).all()
        assert dataset.videos[key].id == CLIP
    assert [row.id for row in dataset.videos[:2]] == [dataset.videos[0].id, dataset.videos[1].id]
    with pytest.raises(IndexError):
        dataset.flow(len(dataset.videos))


def test_backward_is_the_other_way(dataset: Dataset) -> None:
    there, back = dataset.flow(CLIP), dataset.flow(CLIP, direction="backward")
    assert abs(np.median(there[:, 0]) + 2) < 0.5 and abs(np.median(back[:, 0]) - 2) < 0.5


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (
            lambda d: d.flow("left/left_0.avi"),
            UsageError,
            "no video 'left/left_0.avi'.* Did you mean 'left/left_00.avi'?",
        ),
        (
            lambda d: d.flow("qqq"),
            UsageError,
            "no video 'qqq' in this dataset. List them with: flowprep info .* --videos",
        ),
        (lambda d: d.flow(FAILED), RefusedError, f"{FAILED}: nothing is stored .* undecodable: .*not a video"),
        (lambda d: d.frames(FAILED), RefusedError, "nothing is stored"),
        (lambda d: d.flow(CLIP, direction="upward"), UsageError, "direction 'upward': give forward or backward"),
    ],
)
def test_mistakes_are_named(
    dataset: Dataset, use: Callable[[Dataset], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        use(dataset)


def test_what_was_not_extracted_is_named(folder: Path, videos: list[Video], tmp_path: Path) -> None:
    only = replace(SETTINGS, flow=replace(SETTINGS.flow, direction="backward"), storage=StorageConfig(rgb=False))
    dataset = flowprep.open(make_dataset(tmp_path / "out.zarr", folder, videos[1:2], settings=only))
    video = videos[1].id
    with pytest.raises(UsageError, match="holds backward flow; forward flow needs extract --direction both"):
        dataset.flow(video)
    with pytest.raises(UsageError, match="RGB frames were not stored"):
        dataset.frames(video)
    assert dataset.flow(video, direction="backward").shape[0] == 5
    assert verify(dataset, full=True).clean
    assert "flow_48x64" not in zarr.open(tmp_path / "out.zarr", mode="r")


@pytest.mark.parametrize(("make", "words"), [(False, "does not exist"), (True, "is not a flowprep dataset")])
def test_no_dataset_is_named(tmp_path: Path, make: bool, words: str) -> None:
    if make:
        (tmp_path / "x.zarr").mkdir()
    with pytest.raises(UsageError, match=rf"x.zarr {words}\. Make one with: flowprep extract SOURCE"):
        flowprep.open(tmp_path / "x.zarr")


# --- several readers ---


def test_a_pickle_opens_the_same_dataset(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(path.parent)
    dataset = flowprep.open(path.name)
    data = pickle.dumps(dataset)
    assert len(data) < 1000, "by its path, not by its tables"
    monkeypatch.chdir(tmp_path)
    assert (pickle.loads(data).flow(CLIP) == flowprep.open(path).flow(CLIP)).all()


def test_threads_share_a_dataset(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprep.store.rows.OPEN_FILES", 1)  # so that they close each other's files
    dataset, alone = flowprep.open(path), flowprep.open(path)
    ids = [row.id for row in dataset.videos if row.fields]
    expected = {id: (alone.flow(id), alone.frames(id)) for id in ids}
    wrong: list[str] = []

    def read(seed: int) -> None:
        for id in np.random.default_rng(seed).choice(ids, 30):
            flow, frames = dataset.flow(id), dataset.frames(id)
            if not ((flow == expected[id][0]).all() and (frames == expected[id][1]).all()):
                wrong.append(id)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_fork_reads_on_while_threads_of_its_parent_read(path: Path) -> None:
    dataset = flowprep.open(path)
    expected = dataset.flow(CLIP)
    done = threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            dataset.flow(f"more/{CLIP}")

    reader = threading.Thread(target=keep_reading)
    reader.start()
    processes = multiprocessing.get_context("fork")
    answers = processes.Queue()

    def child() -> None:
        answers.put(all((dataset.flow(CLIP) == expected).all() for _ in range(5)))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
            children = [processes.Process(target=child) for _ in range(4)]
            for each in children:
                each.start()
        assert all(answers.get(timeout=30) for _ in children)
        for each in children:
            each.join()
    finally:
        done.set()
        reader.join()
    assert (dataset.flow(CLIP) == expected).all(), "and the parent goes on"


def test_closed_files_are_opened_again(path: Path) -> None:
    dataset = flowprep.open(path)
    before = dataset.flow(CLIP)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    dataset.close()
    assert len(list(Path("/proc/self/fd").iterdir())) < opened
    assert (dataset.flow(CLIP) == before).all()
