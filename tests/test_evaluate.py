"""A video gets the mean softmax of all its inputs, as a slow loop finds it; and what cannot be evaluated is said."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flowprep.config import NetConfig, SolverConfig, Stacking, StreamConfig, TrainDataConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks import stack_fields
from flowprep.stacks.reach import frames_of, reach
from flowprep.stacks.torch_loader import tensors
from flowprep.store.reader import Dataset, VideoTable
from flowprep.store.shardfile import INDEX_BYTES, SLOTS
from flowprep.store.summary import content_fingerprint
from flowprep.train import checkpoint as checkpoints
from flowprep.train import evaluate as evaluating
from flowprep.train.checkpoint import Checkpoint, Task
from flowprep.train.evaluate import Scorer, evaluate
from flowprep.train.inputs import test_loader as loader_for_testing
from flowprep.train.nets import build, normalisation
from flowprep.train.scores import UNKNOWN, Scores
from flowprep.wording import plural, some
from tests.in_process import CLIP, stack
from tests.loader_data import CROP, SHORT, flow_dataset, flow_folder
from tests.one_thread import one_thread  # noqa: F401 - for all tests here

STACKING = Stacking(length=4)
CLASSES = ("alone", "large", "small")


def config_of(stream: str, **other: Any) -> StreamConfig:
    net = NetConfig(width=0.05, dropout=0.5, init="he")
    data = TrainDataConfig(split=2, crop=CROP)  # split 2 calls all videos of the dataset "test"
    return StreamConfig(
        stream, str(flow_folder()), "run", data, STACKING, net, SolverConfig(precision="float32", device="cpu"), **other
    )


def trained(
    folder: Path,
    stream: str = "temporal",
    *,
    tasks: tuple[tuple[str, ...], ...] = (CLASSES,),
    dataset: Dataset | None = None,
    config: StreamConfig | None = None,
    scale: float = 500.0,
    training: dict[str, Any] | None = None,
    learned: list[dict[str, int]] | None = None,
) -> Path:
    """A run folder with a checkpoint of random weights, whose scores differ much between inputs."""
    config, dataset = config or config_of(stream), dataset or flow_dataset()
    channels = 3 if config.stream == "spatial" else 2 * (dataset.settings.stack or config.stack).length
    torch.manual_seed(1)
    net = build(config.net, channels, [len(classes) for classes in tasks], crop=CROP)
    with torch.no_grad():
        for head in net.heads:
            head.weight *= scale
    named = [Task(f"task {number}", config.dataset, "f", classes) for number, classes in enumerate(tasks)]
    saved = Checkpoint(
        config, 7, named, channels, dataset.settings.to_json(), net.state_dict(), training, learned or []
    )
    (folder / "run").mkdir(parents=True, exist_ok=True)
    checkpoints.save(folder / "run" / checkpoints.NAME, saved)
    return folder / "run"


@cache
def _whole() -> tuple[Dataset, tuple[str, ...]]:
    return flow_dataset(), tuple(row.id for row in flow_dataset().videos if row.id != SHORT)


def scores_of(run: Path, dataset: Any = None, **options: Any) -> Scores:
    return evaluate(
        run, dataset or flow_dataset(), **{"frames": 3, "on_damage": "skip", "device": "cpu", "workers": 2} | options
    )


# --- what a score is ---


def whole_inputs(stream: str, id: str, count: int) -> NDArray[np.float32]:
    """(count, C, H, W) as the network's inputs are before they are cut, from what the dataset reads."""
    dataset = flow_dataset()
    if stream == "spatial":
        frames = dataset.frames(id).astype(np.float32)
        chosen = [int(place) for place in np.floor(np.linspace(0, len(frames) - 1, count))]
        normal = normalisation("cnn-m-2048", True, "he")
        mean, std = (np.array(values or 1, np.float32).reshape(-1, 1, 1) for values in (normal.mean, normal.std))
        return (frames[chosen] - mean) / std
    flow, means = dataset.flow(id), dataset.stats(id)[:, :, 0]
    possible = frames_of(STACKING, len(flow))
    (std,) = normalisation("cnn-m-2048", False, "he").std
    stacks = []
    for place in np.floor(np.linspace(0, len(possible) - 1, count)):
        rows = list(reach(STACKING, len(flow), possible[int(place)]).forward)
        stacks.append(stack_fields(STACKING, flow[rows], None, means=means[rows], backward_means=None) / std)
    return np.array(stacks, np.float32)


def by_a_slow_loop(run: Path, stream: str, id: str, count: int) -> NDArray[np.float64]:
    """The score of a video, one input at a time."""
    net = checkpoints.network(checkpoints.load(run))
    total, inputs = np.zeros(len(CLASSES)), 0
    for whole in whole_inputs(stream, id, count):
        height, width = whole.shape[1:]
        middle = ((height - CROP) // 2, (width - CROP) // 2)
        for top, left in (*((t, l) for t in (0, height - CROP) for l in (0, width - CROP)), middle):  # noqa: E741
            for mirror in (False, True):
                x = whole[:, top : top + CROP, left : left + CROP].copy()
                if mirror:
                    x = x[:, :, ::-1].copy()
                    if stream == "temporal":
                        x[0::2] *= -1
                with torch.no_grad():
                    (logits,) = net(torch.from_numpy(x[None]))
                powers = np.exp(logits[0].double().numpy())
                total += powers / powers.sum()
                inputs += 1
    assert inputs == 10 * count
    return total / inputs


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_scores_are_those_of_a_slow_loop(tmp_path: Path, stream: str) -> None:
    run = trained(tmp_path, stream)
    scores = scores_of(run)
    assert len(scores.ids) >= 5
    for row, id in zip(scores.scores, scores.ids, strict=True):
        assert np.allclose(row, by_a_slow_loop(run, stream, id, 3), atol=2e-4), id
    assert np.ptp(scores.scores, axis=0).max() > 0.02  # the loop above could tell one video from another
    assert np.allclose(scores.scores.sum(axis=1), 1, atol=1e-5)


def test_a_video_has_250_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    made = checkpoints.network

    def network(*arguments: Any) -> torch.nn.Module:
        net = made(*arguments)
        net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        return net

    monkeypatch.setattr(checkpoints, "network", network)
    scores = scores_of(trained(tmp_path), frames=25, batch=64)
    assert {shape[1:] for shape in seen} == {(8, CROP, CROP)}
    assert max(shape[0] for shape in seen) <= 64
    assert sum(shape[0] for shape in seen) == 250 * len(scores.ids)
    assert (scores.frames, scores.crops) == (25, 10)


@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 7}, {"batch": 1000}, {"workers": 1}])
def test_batches_and_workers_are_of_no_account(tmp_path: Path, options: dict[str, int]) -> None:
    run = trained(tmp_path)
    expected, found = scores_of(run), scores_of(run, **options)
    assert found.ids == expected.ids
    assert np.allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("crops", [2, 10])
def test_a_mirrored_video_has_the_same_score(tmp_path: Path, crops: int) -> None:
    saved = checkpoints.load(trained(tmp_path))
    loader = loader_for_testing(saved.config, flow_dataset(), part="", split=None)
    scorer = Scorer(saved, 0, device="cpu", crops=crops, batch=64)
    single = Scorer(saved, 0, device="cpu", crops=1, batch=64)
    for clip in range(len(loader.sampler.clips)):
        video = tensors(loader.test_batch(clip, 3))
        sign = torch.tensor([-1.0, 1.0]).repeat(4)
        mirrored = replace(video, levels=video.levels.flip(-1), scale=video.scale * sign, mean=video.mean * sign)
        assert np.allclose(scorer.scores(mirrored), scorer.scores(video), atol=1e-5)
        assert not np.allclose(single.scores(mirrored), single.scores(video), atol=1e-5)  # a net of no symmetry


def test_crops_are_centre_mirror_and_corners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoints.load(trained(tmp_path))
    frames = torch.arange(2 * 8 * 36 * 40, dtype=torch.float32).reshape(2, 8, 36, 40)
    scorers = {crops: Scorer(saved, 0, device="cpu", crops=crops, batch=1) for crops in (1, 2, 5, 10)}
    cut = {crops: scorers[crops].cut(frames) for crops in (5, 10)}
    monkeypatch.delattr(evaluating, "ten_crops")  # the corners are not cut where nobody looks at them
    cut |= {crops: scorers[crops].cut(frames) for crops in (1, 2)}
    centre = frames[:, :, 2:34, 4:36]
    assert torch.equal(cut[1], centre)
    mirrored = centre.flip(-1)
    mirrored[:, 0::2] *= -1
    assert torch.equal(cut[2], torch.cat([centre, mirrored]))
    assert torch.equal(cut[5], cut[10][:10])
    assert torch.equal(cut[5][8:], centre)
    for crops in (1, 2):
        with pytest.raises(UsageError, match="does not fit into 40x31 pixels"):
            scorers[crops].cut(frames[:, :, :31])


@pytest.mark.parametrize(("precision", "mixed"), [("bfloat16", True), ("float32", False), ("auto", False)])
def test_the_precision_is_that_of_the_training(tmp_path: Path, precision: str, mixed: bool) -> None:
    saved = checkpoints.load(trained(tmp_path))
    saved.config = replace(saved.config, solver=SolverConfig(precision=precision))
    scorer = Scorer(saved, 0, device="cpu", crops=1, batch=1)
    inside: list[bool] = []
    scorer.net.register_forward_pre_hook(lambda *_: inside.append(torch.is_autocast_enabled("cpu")))
    softmax = scorer.softmax(torch.zeros(1, 8, CROP, CROP))
    assert inside == [mixed]
    assert softmax.dtype == torch.float32


# --- what belongs to a score ---


def test_what_scores_say_of_themselves(tmp_path: Path) -> None:
    run, (dataset, ids) = trained(tmp_path), _whole()
    scores = scores_of(run / checkpoints.NAME, dataset.path, name="mine")
    assert scores.ids == ids
    assert [scores.classes[label] for label in scores.labels] == [dataset.videos[id].label for id in ids]
    assert (scores.name, scores.stream, scores.split, scores.part) == ("mine", "temporal", 2, "test")
    assert (scores.net, scores.fingerprint) == ("cnn-m-2048", content_fingerprint(dataset))
    assert Path(scores.checkpoint) == run / checkpoints.NAME
    assert Path(scores.dataset) == dataset.path
    assert scores_of(run).name == "temporal"


def test_unlabelled_videos_have_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowprep.store.reader.VideoRow.label", property(lambda _: ""))
    scores = scores_of(trained(tmp_path))
    assert (scores.labels == UNKNOWN).all()
    assert math.isnan(scores.accuracy)
    assert "without labels" in str(scores)


# --- stored stacks ---


@cache
def stacks_of(kind: str) -> Path:
    """A dataset of stacks of the videos."""
    out = flow_folder().parent / f"stacks-{kind}.zarr"
    stack(flow_folder(), out, kind=kind, length=4, every=1)
    return out


def test_stored_stacks_and_stacks_made_on_the_spot_score_alike(tmp_path: Path) -> None:
    config = replace(config_of("temporal"), stack=Stacking("trajectory", length=4))
    run = trained(tmp_path, config=config, dataset=Dataset(stacks_of("trajectory")))
    stored, made = scores_of(run, stacks_of("trajectory")), scores_of(run)
    assert stored.ids == made.ids
    assert np.abs(stored.scores - made.scores).max() < 0.02
    with pytest.raises(RefusedError, match="kind flow, those that were trained on trajectory"):
        scores_of(run, stacks_of("flow"))


def test_other_numbers_of_channels_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path)
    saved = checkpoints.load(run)
    saved.channels = 6
    checkpoints.save(run / checkpoints.NAME, saved)
    with pytest.raises(RefusedError, match="8 channels, those that were trained on 6"):
        scores_of(run)


# --- damage ---


def test_videos_that_are_too_short_are_refused_or_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trained(tmp_path)
    with pytest.raises(RefusedError, match=rf"1 video cannot be evaluated: {SHORT} .*--on-damage skip"):
        scores_of(run, on_damage="raise")
    caplog.clear()
    assert SHORT not in scores_of(run).ids
    assert f"left out, 1 video: {SHORT} (its 2 fields are too few for a stack)" in caplog.text


def damaged(folder: Path, video: str) -> tuple[Path, set[str]]:
    """A copy of the dataset whose file with the flow of ``video`` holds no field any more; and the videos in that."""
    copy = folder / "damaged.zarr"
    shutil.copytree(flow_folder(), copy)
    rows = {row.id: row.row.flow for row in Dataset(copy).videos if row.row.flow}
    block = rows[video].start // SLOTS
    (file,) = [path for path in (copy / rows[video].array / "c" / str(block)).rglob("*") if path.is_file()]
    content = file.read_bytes()
    file.write_bytes(bytes(len(content) - INDEX_BYTES) + content[-INDEX_BYTES:])
    return copy, {id for id, place in rows.items() if place.start // SLOTS == block}


def test_damaged_videos_are_refused_or_left_out(tmp_path: Path) -> None:
    folder, lost = damaged(tmp_path, CLIP)
    run, said = trained(tmp_path), []
    long = Dataset(folder)
    long.videos = VideoTable([row for row in long.videos if row.id != SHORT])
    with pytest.raises(RefusedError, match="damaged.zarr"):
        scores_of(run, long, on_damage="raise")
    scores = scores_of(run, folder, say=said.append)
    assert scores.ids == tuple(id for id in _whole()[1] if id not in lost)
    left_out = lost - {SHORT}
    assert 0 < len(left_out) < 5
    assert [text for text in said if f"damaged: {plural(len(left_out), 'video')}: {some(sorted(left_out))}" in text]


def test_weights_that_diverged_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not finite"):
        scores_of(trained(tmp_path, scale=math.nan))


@pytest.mark.parametrize("options", [{"crops": 3}, {"frames": 0}, {"batch": 0}, {"workers": -1}, {"on_damage": "no"}])
def test_numbers_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give (positive numbers|1 to 1000)"):
        scores_of(tmp_path, **options)


def test_progress_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 12.0, 14.0])
    monkeypatch.setattr(evaluating.time, "monotonic", lambda: next(clock))
    said: list[str] = []
    progress = evaluating._Progress(1206, said.append)
    for _ in range(3):
        progress.step()
    assert said == ["2 of 1,206 videos  0.2/s  2 h 0 min left"]
