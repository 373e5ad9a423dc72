"""A file gets the scores that it has in a dataset, bit for bit; and a bad one its verdict, leaving nothing behind."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowprep import flow, shard
from flowprep.config import (
    FlowConfig,
    NetConfig,
    Settings,
    SolverConfig,
    StackConfig,
    Stacking,
    StorageConfig,
    StreamConfig,
    TrainDataConfig,
)
from flowprep.errors import RefusedError, StoreError, UsageError, Verdict, VideoError
from flowprep.run import product
from flowprep.store import blobs
from flowprep.store.reader import Dataset
from flowprep.train import checkpoint as checkpoints
from flowprep.train.checkpoint import Checkpoint, Task
from flowprep.train.evaluate import evaluate
from flowprep.train.fusion import fuse
from flowprep.train.nets import build
from flowprep.train.predict import Predictor
from flowprep.train.remake import Stream, recipes
from flowprep.train.scores import Scores
from tests import in_process
from tests.in_process import CLIP, FINE, SETTINGS, InProcess
from tests.loader_data import CROP, SHORT, flow_dataset, flow_folder
from tests.one_thread import one_thread  # noqa: F401 - for all tests here

CLASSES = ("alone", "large", "small")
OTHER = "zoom_out/zoom_out_00.avi"
FEW = {"frames": 3, "device": "cpu"}


@pytest.fixture(autouse=True)
def extracted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """What is extracted or derived, in the test's own process; and nothing is left in the temporary folder."""
    flow_folder()  # made once, and kept elsewhere
    done: list[str] = []

    class Recorded(InProcess):
        def extract(self, settings: Settings, *others: Any) -> Any:
            done.append("stacks" if settings.stack else "transcoded" if settings.derived else "flow")
            return super().extract(settings, *others)

    monkeypatch.setattr(shard, "Sandbox", Recorded)
    monkeypatch.setattr(shard, "_thread", threading.local())
    monkeypatch.setattr(product, "probe_all", lambda root, videos, *_: [in_process.header(root / v.id) for v in videos])
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(blobs, "flush", lambda _: None)  # the power stays on
    yield done
    assert list(temporary.iterdir()) == []


def path_of(id: str) -> Path:
    """The file that a video of the dataset was."""
    return flow_folder().parent / "videos-jpeg" / id


def trained(
    folder: Path,
    stream: str,
    dataset: Dataset | None = None,
    classes: tuple[str, ...] = CLASSES,
    settings: dict[str, Any] | None = None,
    **stack: Any,
) -> Path:
    """A run folder with a checkpoint of random weights, whose scores differ much between videos."""
    dataset = dataset or flow_dataset()
    names = [item.name for item in dataclasses.fields(Stacking)]
    stored = {name: getattr(dataset.settings.stack, name) for name in names} if dataset.settings.stack else {}
    stacking = Stacking(**{"length": 4} | stored | stack)
    net = NetConfig(width=0.05, dropout=0.5, init="he")
    data = TrainDataConfig(crop=CROP)
    config = StreamConfig(stream, str(dataset.path), "run", data, stacking, net, SolverConfig(device="cpu"))
    channels = 3 if stream == "spatial" else 2 * stacking.length
    torch.manual_seed(len(stream))
    module = build(net, channels, [len(classes), 2], crop=CROP)
    with torch.no_grad():
        for head in module.heads:
            head.weight *= 20
    tasks = [Task("first", str(dataset.path), "f", classes), Task("second", "other.zarr", "f", ("yes", "no"))]
    saved = Checkpoint(config, 7, tasks, channels, settings or dataset.settings.to_json(), module.state_dict())
    folder.mkdir()
    checkpoints.save(folder / checkpoints.NAME, saved)
    return folder


def in_dataset(run: Path, dataset: Dataset, part: str = "") -> Scores:
    return evaluate(run, dataset, part=part, on_damage="skip", **FEW)


def bits(scores: Scores, id: str) -> bytes:
    return scores.scores[scores.ids.index(id)].tobytes()


def check(run: Path, dataset: Dataset, keep: Path | None = None) -> None:
    """A file and the video of the dataset that it became have the same scores, which those of another are not."""
    known = in_dataset(run, dataset)
    prediction = Predictor([run], **FEW).predict(path_of(CLIP), keep)
    assert prediction.scores.scores.tobytes() == bits(known, CLIP) != bits(known, OTHER)
    assert prediction.scores.classes == CLASSES


# --- as in the dataset ---


def test_frames_alone_are_extracted_for_a_spatial_stream(tmp_path: Path) -> None:
    check(trained(tmp_path / "run", "spatial"), flow_dataset(), tmp_path / "kept")
    (made,) = (tmp_path / "kept" / Path(CLIP).name).iterdir()
    place = Dataset(made).videos[0].row.flow
    assert place and place.array == "flow_16x16"  # next to no work


@pytest.mark.parametrize(
    "stack",
    [{}, {"kind": "trajectory"}, {"bidirectional": True}, {"mean_subtract": False, "temporal_stride": 2}],
    ids=lambda stack: "-".join(stack) or "plain",
)
def test_stacks_of_flow(tmp_path: Path, stack: dict[str, Any]) -> None:
    check(trained(tmp_path / "run", "temporal", **stack), flow_dataset(), tmp_path / "kept")
    (made,) = (tmp_path / "kept" / Path(CLIP).name).iterdir()
    settings = Dataset(made).settings
    assert settings.flow.direction == ("both" if stack.get("bidirectional") else "forward")  # only what is looked at
    assert not settings.storage.rgb


@pytest.mark.parametrize("backward", ["stored", "frames"])
def test_stored_stacks(tmp_path: Path, extracted: list[str], backward: str) -> None:
    stacks = tmp_path / "stacks.zarr"
    in_process.stack(
        flow_folder(), stacks, StorageConfig(quality=70), length=4, every=2, bidirectional=True, backward=backward
    )
    extracted.clear()
    check(trained(tmp_path / "run", "temporal", Dataset(stacks)), Dataset(stacks))
    assert extracted == ["flow", "stacks"]


def test_what_was_stored_anew_on_the_way(tmp_path: Path, extracted: list[str]) -> None:
    smaller, stacks, last = (tmp_path / f"{name}.zarr" for name in ("smaller", "stacks", "last"))
    in_process.transcode(flow_folder(), smaller, StorageConfig(quality=40))
    in_process.stack(smaller, stacks, FINE, length=3, per_video=3, size="48x40")
    in_process.transcode(stacks, last, StorageConfig(quality=60))
    extracted.clear()
    check(trained(tmp_path / "temporal", "temporal", Dataset(last)), Dataset(last))
    assert extracted == ["flow", "transcoded", "stacks", "stacks"]
    extracted.clear()
    check(trained(tmp_path / "spatial", "spatial", Dataset(smaller)), Dataset(smaller))
    assert extracted == ["flow"]  # frames are taken over as they are


def test_streams_together(tmp_path: Path, extracted: list[str]) -> None:
    stacks = tmp_path / "stacks.zarr"
    in_process.stack(flow_folder(), stacks, length=2, every=2)
    runs = [
        trained(tmp_path / "a", "spatial"),
        trained(tmp_path / "b", "temporal", classes=CLASSES[::-1]),
        trained(tmp_path / "c", "temporal", Dataset(stacks)),
    ]
    datasets = [flow_dataset(), flow_dataset(), Dataset(stacks)]
    known = [in_dataset(run, dataset).arranged([CLIP], CLASSES) for run, dataset in zip(runs, datasets, strict=True)]
    for weights, expected in ((None, fuse(known, "average")), ((1, 2, 0.5), fuse(known, "weighted", (1, 2, 0.5)))):
        extracted.clear()
        prediction = Predictor(runs, weights=weights, **FEW).predict(path_of(CLIP))
        assert prediction.scores.classes == expected.classes
        assert prediction.scores.scores.tobytes() == expected.scores.tobytes()
        assert extracted == ["flow", "stacks"]  # decoded once
    ranked = prediction.ranked()
    assert [entry["score"] for entry in ranked] == sorted(expected.scores[0].tolist(), reverse=True)
    for entry in ranked:
        column = CLASSES.index(entry["class"])
        assert entry["score"] == expected.scores[0, expected.classes.index(entry["class"])]
        assert list(entry["streams"].items()) == [
            (name, scores.scores[0, column])
            for name, scores in zip(("spatial", "temporal", "temporal 2"), known, strict=True)
        ]


def test_streams_of_other_flow_have_a_dataset_each(tmp_path: Path, extracted: list[str]) -> None:
    settings = flow_dataset().settings
    other = replace(settings, flow=FlowConfig("farneback", "opencv", "forward"), engine="opencv").to_json()
    runs = [trained(tmp_path / "a", "temporal"), trained(tmp_path / "b", "temporal", settings=other)]
    prediction = Predictor(runs, **FEW).predict(path_of(CLIP))
    assert extracted == ["flow", "flow"]
    first, second = prediction.streams
    assert first.scores.tobytes() == bits(in_dataset(runs[0], flow_dataset()), CLIP) != second.scores.tobytes()


# --- what leads to a dataset ---


def kinds(settings: Settings, stream: str = "temporal") -> tuple[list[str], list[str]]:
    """Kinds of the datasets on the way to one, and what is said of them."""
    said: list[str] = []
    (recipe,) = recipes([Stream(StreamConfig(stream), settings)], said.append)
    assert [len(step.origins) for step in recipe] == list(range(len(recipe)))
    return ["stacks" if step.stack else "flow" for step in recipe], said


def test_the_order_in_which_stacks_were_made_and_stored_anew() -> None:
    here = replace(flow_dataset().settings, engine=flow.find("dis", "opencv").engine())
    framed, bare = StorageConfig(), StorageConfig(rgb=False)
    from_frames = StackConfig(bidirectional=True, backward="frames")
    for origins, stack, expected, words in (
        ((), None, ["flow"], ""),
        ((framed,), None, ["flow", "flow"], ""),
        ((framed,), from_frames, ["flow", "stacks"], ""),
        ((bare,), StackConfig(), ["flow", "stacks"], ""),
        ((framed, framed), from_frames, ["flow", "flow", "stacks"], ""),
        ((framed, bare), from_frames, ["flow", "stacks", "stacks"], "first stacked, then transcoded"),
        ((bare, bare), StackConfig(), ["flow", "flow", "stacks"], "first transcoded"),
    ):
        storage = bare if stack else framed
        found, said = kinds(replace(here, storage=storage, origins=origins, stack=stack))
        assert found == expected
        assert len(said) == bool(words) and words in "".join(said)


# --- what cannot be predicted ---


def test_bad_videos_have_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_bytes(b"no video at all " * 100)
    (tmp_path / "folder.avi").mkdir()
    (tmp_path / "two\nlines.avi").write_bytes(b"")
    predictor = Predictor([trained(tmp_path / "run", "temporal")], **FEW)
    for path, verdict, reason in (
        (tmp_path / "text.avi", Verdict.UNDECODABLE, "not a video file"),
        (tmp_path / "folder.avi", Verdict.BAD_PATH, "not a regular file"),
        (tmp_path / "two\nlines.avi", Verdict.BAD_PATH, "control characters"),
        (tmp_path / "none.avi", Verdict.MISSING, "no such file"),
        (tmp_path / "text.avi" / "x.avi", Verdict.UNDECODABLE, "Not a directory"),
        (path_of(SHORT), Verdict.TOO_SHORT, "it has 2 fields, a stack needs 4"),
    ):
        with pytest.raises(VideoError, match=reason) as caught:
            predictor.predict(path)
        assert caught.value.verdict == verdict
    predictor.predict(path_of(CLIP))  # as before


def test_a_video_too_short_for_the_stored_stacks_or_too_small(tmp_path: Path) -> None:
    in_process.stack(flow_folder(), tmp_path / "stacks.zarr", length=4)
    predictor = Predictor([trained(tmp_path / "run", "temporal", Dataset(tmp_path / "stacks.zarr"))], **FEW)
    with pytest.raises(VideoError, match="a stack needs 4") as caught:
        predictor.predict(path_of(SHORT))
    assert caught.value.verdict == Verdict.TOO_SHORT
    smaller = replace(flow_dataset().settings, storage=StorageConfig(rgb_short_side=16)).to_json()
    predictor = Predictor([trained(tmp_path / "small", "spatial", settings=smaller)], **FEW)
    with pytest.raises(VideoError, match="21x16 pixels, the network looks at 32x32") as caught:
        predictor.predict(path_of(CLIP))
    assert caught.value.verdict == Verdict.TOO_SMALL


def test_what_does_not_go_together_is_refused_before_a_video_is_decoded(tmp_path: Path, extracted: list[str]) -> None:
    runs = [trained(tmp_path / "a", "spatial"), trained(tmp_path / "b", "temporal", classes=("alone", "large", "tiny"))]
    with pytest.raises(RefusedError, match="small, tiny"):
        Predictor(runs, **FEW)
    with pytest.raises(UsageError, match="weights"):
        Predictor(runs[:1], weights=(1, 2), **FEW)
    with pytest.raises(UsageError, match="crops 3"):
        Predictor(runs[:1], crops=3)
    bare = replace(SETTINGS, storage=StorageConfig(rgb=False)).to_json()
    stacks = replace(SETTINGS, stack=StackConfig(length=4)).to_json()  # of nothing
    longer = replace(SETTINGS, stack=StackConfig(length=5), origins=(SETTINGS.storage,)).to_json()
    centred = replace(SETTINGS, stack=StackConfig(length=4, anchor="centre"), origins=(SETTINGS.storage,)).to_json()
    many = replace(SETTINGS, origins=(SETTINGS.storage,) * 9).to_json()
    wrong = [
        {"video": {}},
        {**SETTINGS.to_json(), "flow": []},
        {**SETTINGS.to_json(), "origins": 1},
        stacks,
        longer,
        centred,
        many,
        bare,
    ]
    for number, settings in enumerate(wrong):
        run = trained(tmp_path / f"hostile{number}", "spatial" if settings is bare else "temporal", settings=settings)
        with pytest.raises(RefusedError, match=r"hostile.*settings"):
            Predictor([run])
    with pytest.raises(RefusedError, match=r"one.*twice"):
        Predictor([trained(tmp_path / "one", "temporal", classes=("a", "a", "b"))])
    assert not extracted


def test_what_was_not_finished_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command may be run again, after a full disk or a video that cannot be used."""
    predictor = Predictor([trained(tmp_path / "run", "spatial")], **FEW)
    extract = InProcess.extract

    def full(*arguments: Any) -> Any:
        extract(*arguments)
        raise StoreError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(InProcess, "extract", full)
        with pytest.raises(StoreError):
            predictor.predict(path_of(CLIP), tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    with pytest.raises(VideoError):
        predictor.predict(tmp_path / "none.avi", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    Predictor([tmp_path / "run"], **FEW).predict(path_of(CLIP), tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 1
    for file in (path_of(CLIP), path_of(CLIP) / "below"):
        with pytest.raises(UsageError, match="not a folder, or below a file: name another one"):
            predictor.predict(path_of(OTHER), file)


def test_kept_datasets_are_not_mixed(tmp_path: Path) -> None:
    predictor = Predictor([trained(tmp_path / "run", "spatial")], **FEW)
    predictor.predict(path_of(CLIP), tmp_path / "kept")
    predictor.predict(path_of(f"more/{CLIP}"), tmp_path / "kept")
    name = Path(CLIP).name
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [name, f"{name}-2"]
    with pytest.raises(RefusedError, match="is there already"):
        Predictor([tmp_path / "run"], **FEW).predict(path_of(CLIP), tmp_path / "kept")
