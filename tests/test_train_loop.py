"""Training learns, stops and goes on as if nothing had been, and says what it cannot do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowprep.errors import RefusedError, StoreError, UnfinishedError
from flowprep.stacks import StackLoader
from flowprep.stacks.torch_loader import tensors, to_pixels
from flowprep.store.reader import Dataset
from flowprep.train import learner, loop, progress
from flowprep.train.checkpoint import Checkpoint, load, network
from flowprep.train.device import choose_device
from flowprep.train.inputs import test_loader as loader_for_testing
from flowprep.train.log import LOG, read_log
from flowprep.train.nets import Network
from flowprep.train.processes import Processes
from flowprep.train.run_folder import CONFIG
from flowprep.train.tasks import open_lessons
from flowprep.train.validating import Validation, validate
from tests.training_data import CROP, dataset, kill_at, run, same, tiny

ROOT = Path(__file__).parents[1]


def log_of(folder: Path) -> list[tuple[int, Any]]:
    """What must be the same however often a run was stopped."""
    return [(line["iteration"], line.get("loss", line.get("validation_loss"))) for line in read_log(folder / LOG)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(tiny(folder))
    return folder


def test_a_tiny_network_learns_eight_videos(tmp_path: Path) -> None:
    solver = {"iterations": 80, "batch": 16, "learning_rate": 0.05, "log_every": 20, "weight_decay": 0.0}
    data = {"position": "centre"}
    config = tiny(tmp_path, net={"name": "resnet18", "width": 0.1, "dropout": 0.0}, data=data, solver=solver)
    outcome, _ = run(config)
    lines = [line for line in read_log(tmp_path / LOG) if "loss" in line]
    assert lines[0]["loss"] > 0.3
    assert min(line["loss"] for line in lines) < 0.05
    assert outcome.validation
    assert outcome.validation.videos == 4
    assert outcome.validation.accuracy == 1.0, "clips that were not trained on"


@pytest.mark.system
def test_the_network_of_the_paper_learns(tmp_path: Path) -> None:
    """CNN-M-2048, a quarter as wide, knows eight videos in the end."""
    changes: dict[str, Any] = {"data": {"crop": 48, "position": "centre"}, "net": {"width": 0.25, "dropout": 0.0}}
    solver = {"iterations": 150, "batch": 16, "learning_rate": 0.02, "weight_decay": 0.0, "log_every": 10}
    run(tiny(tmp_path, **changes, solver=solver))
    losses = [line["loss"] for line in read_log(tmp_path / LOG) if "loss" in line]
    assert losses[0] > 0.5
    assert losses[-1] < 0.05


def test_a_run_leaves_log_events_and_configuration(undisturbed: Path) -> None:
    lines = read_log(undisturbed / LOG)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    for line in lines[:-1]:
        assert {"accuracy", "samples_per_second", "data_wait", "seconds"} <= line.keys()
        assert line["losses"] == {"first": line["loss"]}
    assert [line["learning_rate"] for line in lines[:-1]] == [0.01, 0.01, 0.01, 0.001, 0.001, 0.0001]
    assert {"iteration", "validation_loss", "validation_accuracy"} <= lines[-1].keys()
    assert list((undisturbed / "events").glob("events.out.tfevents.*"))
    assert "width: 0.05" in (undisturbed / CONFIG).read_text()
    assert load(undisturbed).training is None
    assert {"flowprep", "torch"} <= load(undisturbed).versions.keys()


def test_the_same_seed_gives_the_same_network_and_another_one_another(undisturbed: Path, tmp_path: Path) -> None:
    _, again = run(tiny(tmp_path / "again", data={"workers": 3}))
    _, other = run(tiny(tmp_path / "other", solver={"seed": 1}))
    assert same(again.model, load(undisturbed).model)
    assert not same(other.model, load(undisturbed).model)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2], ids=lambda number: number.name)
def test_a_signal_ends_with_a_checkpoint_that_goes_on_exactly(
    undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config = tiny(tmp_path)
    with pytest.raises(UnfinishedError, match="stopped after iteration 3 of 6; the same command goes on"):
        run(config, kill_at(3, number))
    assert load(tmp_path).iteration == 3
    said: list[str] = []
    outcome, checkpoint = run(config, said.append)
    assert "going on after iteration 3" in said[0]
    assert not outcome.done_before
    assert same(checkpoint.model, load(undisturbed).model)
    assert log_of(tmp_path) == log_of(undisturbed)


def test_a_killed_run_goes_on_exactly(undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL after the line of iteration 5; the last checkpoint is of iteration 4."""
    config = tiny(tmp_path)
    code = (
        "import json, sys, torch\n"
        "from flowprep.config import StreamConfig\n"
        "from flowprep.train.loop import train\n"
        "from tests.training_data import kill_at\n"
        "torch.set_num_threads(1)\n"
        "train(StreamConfig.from_json(json.loads(sys.argv[1])), kill_at(5, 9))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(config.to_json())]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert load(tmp_path).iteration == 4
    assert [number for number, _ in log_of(tmp_path)] == [1, 2, 3, 4, 5]
    with (tmp_path / LOG).open("a") as file:
        file.write('{"iteration": 5, "lo')  # what a kill in the midst of a write leaves
    _, checkpoint = run(config)
    assert same(checkpoint.model, load(undisturbed).model)
    assert log_of(tmp_path) == log_of(undisturbed)


def test_a_finished_run_says_so(undisturbed: Path) -> None:
    before = (undisturbed / "checkpoint.pt").read_bytes()
    outcome, _ = run(tiny(undisturbed))
    assert outcome.done_before
    assert outcome.iterations == 6
    assert (undisturbed / "checkpoint.pt").read_bytes() == before


def test_a_line_of_the_log_is_of_all_its_iterations_also_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = {"log_every": 4, "checkpoint_every": 100}
    run(tiny(tmp_path / "whole", solver=solver))
    step = learner.Learner.step

    def stopped(self: learner.Learner, iteration: int, *rest: Any) -> torch.Tensor:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, iteration, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "step", stopped)
        with pytest.raises(UnfinishedError, match="after iteration 3"):
            run(tiny(tmp_path / "stopped", solver=solver))
    run(tiny(tmp_path / "stopped", solver=solver))
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")


def test_divergence_is_an_error_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = learner.Learner.step

    def poisoned(self: learner.Learner, iteration: int, *rest: Any) -> torch.Tensor:
        return step(self, iteration, *rest) * (float("nan") if iteration == 4 else 1)

    monkeypatch.setattr(learner.Learner, "step", poisoned)
    with pytest.raises(RefusedError, match="the loss is nan in iteration 4: .* lower solver.learning_rate"):
        run(tiny(tmp_path, solver={"log_every": 5, "checkpoint_every": 3}))
    assert load(tmp_path).iteration == 3


def test_infinite_weights_are_never_saved(tmp_path: Path) -> None:
    solver = {"learning_rate": 100.0, "momentum": 0.99, "checkpoint_every": 1, "iterations": 50, "log_every": 50}
    with pytest.raises(RefusedError, match="training has diverged"):
        run(tiny(tmp_path, net={"width": 0.1, "name": "vgg16", "dropout": 0.0}, solver=solver))
    if (tmp_path / "checkpoint.pt").exists():
        assert all(weight.isfinite().all() for weight in load(tmp_path).model.values())


def test_a_full_disk_is_an_error_and_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def full(handle: int) -> None:
        if load_if_there(tmp_path) == 2:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device. Free some space and run the same command again"):
        run(tiny(tmp_path))
    assert load(tmp_path).iteration == 2
    assert not list(tmp_path.glob(".*.part"))


def load_if_there(folder: Path) -> int:
    return load(folder).iteration if (folder / "checkpoint.pt").exists() else 0


def test_damaged_samples_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprep.stacks.sources import FieldSource

    whole = FieldSource.load

    def damaged(self: Any, clip: Any, *rest: Any) -> Any:
        if clip.id.startswith(("left/left_00", "left/left_02")):
            raise RefusedError(f"{clip.id}: damaged")
        return whole(self, clip, *rest)

    monkeypatch.setattr(FieldSource, "load", damaged)
    with pytest.raises(RefusedError, match="left/left_00.*: damaged"):
        run(tiny(tmp_path / "raise"))
    outcome, _ = run(tiny(tmp_path / "skip", data={"on_damage": "skip"}))
    (id,) = outcome.damaged
    assert id.startswith("left/left_00")
    assert outcome.validation
    assert (outcome.validation.videos, outcome.validation.damaged) == (3, 1)
    assert [line["damaged"] for line in read_log(tmp_path / "skip" / LOG)[:-1]][-1] == outcome.damaged[id]
    monkeypatch.setattr(Processes, "sum", lambda _, values: 2 * values)  # as if there were another one like this
    outcome, _ = run(tiny(tmp_path / "two", data={"on_damage": "skip"}))
    assert [line["damaged"] for line in read_log(tmp_path / "two" / LOG)[:-1]][-1] == 2 * outcome.damaged[id]


def test_validation_is_the_centre_of_the_middle_of_each_video(undisturbed: Path) -> None:
    checkpoint = load(undisturbed)
    validation = open_lessons(checkpoint.config, 1, share=(0, 1), workers=0).validation
    assert validation
    loader = loader_for_testing(checkpoint.config, Dataset(dataset()), part="test", split=1)
    assert [clip.id for clip in validation.sampler.clips] == [clip.id for clip in loader.sampler.clips]
    module = network(checkpoint)
    losses, right = [], 0
    for number, clip in enumerate(loader.sampler.clips):
        assert clip.id.split("_")[-1].startswith("02")
        (frame,) = validation.sampler.clips[number].frames
        assert frame == clip.frames[(len(clip.frames) - 1) // 2] != clip.frames[0]
        pixels = torch.from_numpy(loader.test_batch(number, len(clip.frames)).numpy())[(len(clip.frames) - 1) // 2]
        top, left = (pixels.shape[1] - CROP) // 2, (pixels.shape[2] - CROP) // 2
        with torch.inference_mode():
            logits = module(pixels[None, :, top : top + CROP, left : left + CROP])[0]
        losses.append(-logits.log_softmax(1)[0, clip.label].item())
        right += logits.argmax(1).item() == clip.label
    found = validated(module, validation)
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.accuracy == right / len(losses)
    assert found.loss == pytest.approx(read_log(undisturbed / LOG)[-1]["validation_loss"], rel=1e-5)


def validated(module: Network, loader: StackLoader) -> Validation:
    return validate(
        module, loader, crop=CROP, precision="float32", processes=Processes(choose_device("cpu")), workers=2
    )


def test_validation_is_without_dropout(undisturbed: Path) -> None:
    checkpoint = load(undisturbed)
    loader = open_lessons(checkpoint.config, 1, share=(0, 1), workers=0).validation
    assert loader
    module = network(checkpoint)
    with torch.no_grad():
        for head in module.heads:
            head.weight *= 500.0  # so that dropout would be seen
    still = validated(module, loader)
    module.train()
    assert validated(module, loader) == still
    assert module.training
    with torch.no_grad():
        pixels = to_pixels(tensors(loader.test_batch(0, 1)))[..., :CROP, :CROP]
        assert not torch.allclose(module(pixels)[0], module.eval()(pixels)[0], rtol=0.01)


def test_validations_are_not_in_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a step takes a second, and a look at the test part a hundred."""
    now = [0.0]
    step, look = learner.Learner.step, loop.validate

    def slow_step(*args: Any) -> torch.Tensor:
        now[0] += 1
        return step(*args)

    def slow_look(*args: Any, **options: Any) -> Validation:
        now[0] += 100
        return look(*args, **options)

    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(learner.Learner, "step", slow_step)
    monkeypatch.setattr(loop, "validate", slow_look)
    run(tiny(tmp_path, solver={"log_every": 2, "validate_every": 3}))
    lines = [line for line in read_log(tmp_path / LOG) if "loss" in line]
    assert [line["samples_per_second"] for line in lines] == pytest.approx([8.0] * 3)
    assert lines[-1]["seconds"] == 106.0, "which counts all"


def test_a_checkpoint_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnfinishedError):
        run(tiny(tmp_path), kill_at(2, signal.SIGTERM))
    loaded: list[weakref.ref[Checkpoint]] = []
    found = loop.found

    def noted(*args: Any) -> Checkpoint | None:
        checkpoint = found(*args)
        assert checkpoint
        loaded.append(weakref.ref(checkpoint))
        return checkpoint

    monkeypatch.setattr(loop, "found", noted)
    there: list[bool] = []
    run(tiny(tmp_path), lambda text: there.append(loaded[0]() is not None) if "/6" in text else None)
    assert there == [False] * 4


def test_threads_that_read_ahead_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12))
    assert loop._processors() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loop._processors() == 3
