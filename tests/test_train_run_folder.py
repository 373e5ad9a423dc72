"""The folder of a run: what may go on there, and who may write to it."""

from __future__ import annotations

import shutil
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from flowprep.errors import RefusedError, StoreError, UnfinishedError
from flowprep.stacks import StackLoader
from flowprep.store.reader import Dataset, VideoTable
from flowprep.train import learner, tasks
from flowprep.train.checkpoint import load
from flowprep.train.run_folder import CONFIG, claimed, write_config
from tests.test_train_loop import log_of
from tests.training_data import dataset, kill_at, run, same, tiny


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(tiny(folder))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": {"learning_rate": 0.1}}, r"what differs:\n  solver.learning_rate: 0.01 -> 0.1\n"),
        ({"solver": {"iterations": 7}}, "solver.iterations: 6 -> 7"),
        ({"net": {"width": 0.06}}, "net.width: 0.05 -> 0.06"),
        ({"stack": {"length": 3}}, "stack.length: 2 -> 3"),
    ],
)
def test_another_configuration_is_refused(undisturbed: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        run(tiny(undisturbed, **changes))


def test_another_dataset_is_refused(undisturbed: Path) -> None:
    second = str(dataset("second"))
    with pytest.raises(RefusedError, match=r"classes of the dataset .*: 4 -> 3"):
        run(tiny(undisturbed, dataset=second))
    with pytest.raises(RefusedError, match="number of tasks: 1 -> 2"):
        run(tiny(undisturbed, data={"also": [second]}))


def test_some_keys_may_change_when_a_run_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(UnfinishedError):
        run(tiny(tmp_path), kill_at(2, signal.SIGTERM))
    free = {"log_every": 2, "checkpoint_every": 5, "validate_every": 3, "device": ""}
    if torch.cuda.is_available():
        free["device"] = "cpu"
    moved = {"weights": "moved.pt"}  # a run that goes on does not read it
    _, checkpoint = run(tiny(tmp_path, data={"workers": 2, "on_damage": "skip"}, net=moved, solver=free))
    assert same(checkpoint.model, load(undisturbed).model)


def test_a_checkpoint_that_is_damaged_or_does_not_fit(undisturbed: Path, tmp_path: Path) -> None:
    """Refused with what to do, not taken."""
    with pytest.raises(UnfinishedError):
        run(tiny(tmp_path), kill_at(2, signal.SIGTERM))
    tree = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    states = tree["training"]["optimizer"]["state"]
    first = next(iter(states))
    momentum = states[first]
    states[first] = {"momentum_buffer": torch.ones(2)}
    torch.save(tree, tmp_path / "checkpoint.pt")
    with pytest.raises(RefusedError, match="checkpoint.pt: not of this network, or its momentum is not: delete it"):
        run(tiny(tmp_path))
    states[first] = momentum
    for wrong in ({}, {"sums": [1.0], "count": 1}, {"sums": [1.0, 1], "count": 1}, {"sums": [1.0, 1.0], "count": -1}):
        torch.save({**tree, "training": {**tree["training"], "meter": wrong}}, tmp_path / "checkpoint.pt")
        with pytest.raises(RefusedError, match="without all that training goes on from. Delete it"):
            run(tiny(tmp_path))
    tree["training"]["sources"][0]["epoch"] = "first"
    torch.save(tree, tmp_path / "checkpoint.pt")
    with pytest.raises(RefusedError, match="the checkpoint's place in a dataset is none: delete it"):
        run(tiny(tmp_path))
    for less in ({}, {"optimizer": {}}, {"optimizer": {}, "sources": [3]}):
        torch.save({**tree, "training": less}, tmp_path / "checkpoint.pt")
        with pytest.raises(RefusedError, match="without all that training goes on from. Delete it"):
            run(tiny(tmp_path))
    (tmp_path / "checkpoint.pt").write_bytes((undisturbed / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(RefusedError, match="it is damaged, .* would run code. Delete it to begin anew"):
        run(tiny(tmp_path))


def test_a_finished_run_is_of_its_videos(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever dataset they are in now, under whatever names; with the parts exchanged it is another training."""

    class Changed(Dataset):
        parts: ClassVar = {"train": "train", "test": "test"}

        def __init__(self, path: str) -> None:
            super().__init__(path)
            videos = [(row, replace(row.video, splits=(self.parts[row.splits[0]], "", ""))) for row in self.videos]
            self.videos = VideoTable([replace(row, video=replace(video, id=f"up/{row.id}")) for row, video in videos])

    monkeypatch.setattr(tasks, "Dataset", Changed)
    assert run(tiny(undisturbed))[0].done_before
    Changed.parts = {"train": "test", "test": "train"}
    with pytest.raises(RefusedError, match=r"of another training; what differs:\n  videos to train on: 8 -> 4, or "):
        run(tiny(undisturbed))


def test_the_comment_of_a_configuration_is_one_line(tmp_path: Path) -> None:
    for name, shown in (("my set.zarr", "'my set.zarr'"), ("a\nb: [", "DATASET")):
        write_config(tmp_path, tiny(tmp_path, dataset=name))
        text = (tmp_path / CONFIG).read_text()
        assert f"--stream temporal {shown} OTHER_FOLDER\n" in text
        assert yaml.safe_load(text)["train"]["dataset"] == name


def test_other_videos_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnfinishedError):
        run(tiny(tmp_path), kill_at(2, signal.SIGTERM))
    whole = StackLoader.state_dict
    monkeypatch.setattr(StackLoader, "state_dict", lambda self: {**whole(self), "videos": "others"})
    with pytest.raises(RefusedError, match="the dataset has other videos"):
        run(tiny(tmp_path))


def test_nobody_else_may_train_in_the_folder(tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(RefusedError, match="another process is training there"):
        run(tiny(tmp_path))
    run(tiny(tmp_path, solver={"iterations": 1}))


def test_a_folder_that_is_moved_is_left_alone(tmp_path: Path) -> None:
    """The run that began in its place keeps its lock, and gets no checkpoint of the first."""
    with ExitStack() as stack:

        def moved(text: str) -> None:
            if text.startswith("3/"):
                (tmp_path / "run").rename(tmp_path / "moved")
                stack.enter_context(claimed(tmp_path / "run"))

        with pytest.raises(StoreError, match="run: moved or deleted while this process trained there"):
            run(tiny(tmp_path / "run"), moved)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
        with pytest.raises(RefusedError, match="another process is training there"):
            run(tiny(tmp_path / "run"))
    assert load(tmp_path / "moved").iteration == 2
    run(tiny(tmp_path / "moved"))
    assert log_of(tmp_path / "moved")[-1][0] == 6


@pytest.mark.parametrize("solver", [{"log_every": 100}, {"checkpoint_every": 100}], ids=str)
def test_a_folder_that_is_deleted_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], solver: dict[str, int]
) -> None:
    step = learner.Learner.step

    def deleted(self: learner.Learner, iteration: int, *rest: Any) -> torch.Tensor:
        assert iteration < 5
        if iteration == 3:
            shutil.rmtree(tmp_path / "run")
        return step(self, iteration, *rest)

    monkeypatch.setattr(learner.Learner, "step", deleted)
    with pytest.raises(StoreError, match="run: moved or deleted"):
        run(tiny(tmp_path / "run", solver=solver))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
