"""Which of several heads scores a dataset, and what is said of scores that mean less than they seem to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.train import checkpoint as checkpoints
from flowprep.train import evaluate as evaluating
from flowprep.train.checkpoint import Task
from tests.loader_data import flow_dataset, flow_folder
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.test_evaluate import CLASSES, config_of, scores_of, stacks_of, trained

# --- heads ---


def test_the_head_is_the_one_that_knows_the_classes(tmp_path: Path) -> None:
    tasks = (("other", "things", "here"), ("zebra", "small", "large", "alone"), CLASSES)
    run = trained(tmp_path, tasks=tasks)
    scores = scores_of(run)
    assert scores.classes == tasks[1]
    assert {scores.classes[label] for label in scores.labels} == set(CLASSES)
    saved = checkpoints.load(run)
    saved.tasks = [saved.tasks[1]]
    of_head = {name.replace("heads.1.", "heads.0."): value for name, value in saved.model.items() if "heads.1." in name}
    saved.model = {name: value for name, value in saved.model.items() if "heads." not in name} | of_head
    checkpoints.save(run / checkpoints.NAME, saved)
    assert np.allclose(scores_of(run).scores, scores.scores, atol=1e-6)


def head_of(tasks: list[Task], classes: set[str], evaluated: set[str]) -> tuple[int, list[str]]:
    """Number of the head that is taken for the dataset, and what is said of that."""
    said: list[str] = []
    number, task = evaluating._head(tasks, flow_dataset(), classes, evaluated, said.append)
    assert task == tasks[number]
    return number, said


def test_a_head_may_lack_classes_that_are_not_evaluated() -> None:
    tasks = [Task("", "", "", ("large", "small")), Task("", "", "", CLASSES)]
    for classes, evaluated, head in ((set(CLASSES), {"large"}, 1), ({*CLASSES, "new"}, {"large"}, 0), ({""}, {""}, 0)):
        assert head_of(tasks, classes, evaluated)[0] == head


def test_of_heads_with_the_same_classes_it_is_that_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, settings = flow_folder(), flow_dataset().settings.fingerprint()
    elsewhere, alike = Task("a", "a.zarr", "other", CLASSES), Task("b", "b.zarr", settings, CLASSES)
    own = Task("own", str(folder), "other", CLASSES)
    assert head_of([elsewhere, alike, own], set(CLASSES), {"large"}) == (2, [])
    assert head_of([elsewhere, own], {*CLASSES, "new"}, {"large"}) == (1, [])
    number, said = head_of([elsewhere, alike], set(CLASSES), {"large"})
    assert number == 1
    assert said == [f"2 heads know the classes of {folder}; taken is that for b.zarr."]
    assert head_of([elsewhere, elsewhere._replace(dataset="c.zarr")], set(CLASSES), {"large"})[0] == 0
    monkeypatch.chdir(folder.parent)
    assert head_of([elsewhere, own._replace(dataset=folder.name)], set(CLASSES), {"large"}) == (1, [])


def test_classes_that_no_head_knows_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, tasks=(("alone", "other"), ("alone", "large")))
    with pytest.raises(RefusedError, match=r"not trained on the class small: "):
        scores_of(run)


# --- warnings ---


def test_videos_that_were_trained_on_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    run = trained(tmp_path)
    scores_of(run, say=said.append)
    assert not [text for text in said if "no test" in text]
    config = config_of("temporal")
    run = trained(tmp_path, config=replace(config, data=replace(config.data, split=1)))
    scores_of(run, split=2, say=said.append)
    assert "5 of 5 videos were trained on (split 1): this is no test." in said
    with pytest.raises(UsageError, match="no video is in part 'test' of split 1"):
        scores_of(run)


def told(folder: Path, dataset: Path, config: StreamConfig) -> list[str]:
    """What a run of ``config``, trained on ``dataset``, is told of videos that it has learned from."""
    said: list[str] = []
    scores_of(trained(folder, config=config), dataset, split=2, say=said.append)
    return [text for text in said if "no test" in text or "not known" in text]


def test_videos_are_known_again_in_another_dataset(tmp_path: Path) -> None:
    flow, stacks = str(flow_folder()), stacks_of("flow")
    plain = config_of("temporal")
    whole = replace(plain.data, whole=True)
    all_of_them = ["5 of 5 videos were trained on (split 2): this is no test."]
    assert told(tmp_path, stacks, plain) == []
    assert told(tmp_path, stacks, replace(plain, data=whole)) == all_of_them
    for joined in ("also", "added"):
        data = replace(plain.data, **{joined: [flow]})
        assert told(tmp_path, stacks, replace(plain, dataset=str(stacks), data=data)) == all_of_them
    left_out = replace(plain.data, added=[flow], leave_out=["large"])
    (text,) = told(tmp_path, stacks, replace(plain, data=left_out))
    assert text.startswith("2 of 5 videos were trained on")

    start = trained(tmp_path / "start", config=replace(plain, data=whole))
    again = trained(tmp_path / "again", config=replace(plain, net=replace(plain.net, weights=str(start))))
    for weights in (start, again):  # which the run before had its weights from
        assert told(tmp_path, stacks, replace(plain, net=replace(plain.net, weights=str(weights)))) == all_of_them
    torch.save({}, tmp_path / "imagenet.pt")
    for weights in (tmp_path / "imagenet.pt", tmp_path / "gone.pt", tmp_path / "run"):  # the last are its own
        assert told(tmp_path, stacks, replace(plain, net=replace(plain.net, weights=str(weights)))) == []


def test_where_datasets_are_gone(tmp_path: Path) -> None:
    plain, gone = config_of("temporal"), str(tmp_path / "gone.zarr")
    learned = replace(plain, dataset=gone, data=replace(plain.data, split=1))
    assert told(tmp_path, flow_folder(), learned) == ["5 of 5 videos were trained on (split 1): this is no test."]
    for data in (replace(plain.data, whole=True), replace(plain.data, also=[gone])):
        (text,) = told(tmp_path, flow_folder(), replace(plain, dataset=gone, data=data))
        assert text.startswith("the videos of a dataset that was trained on are not known: ")
        assert gone in text


def test_a_training_that_is_not_finished_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    run = trained(tmp_path, training={"optimizer": {}, "sources": []})
    scores_of(run, say=said.append)
    assert said[0] == f"{run / checkpoints.NAME}: its training is not finished, 7 of 80,000 iterations are done."
    scores_of(trained(tmp_path), say=said.append)
    assert len(said) == 1


def test_settings_of_a_wrong_shape_are_no_bug(tmp_path: Path) -> None:
    run, said = trained(tmp_path), []
    saved = checkpoints.load(run)
    saved.settings["flow"] = "tvl1"
    checkpoints.save(run / checkpoints.NAME, saved)
    scores_of(run, say=said.append)
    assert "the stream was trained on unknown flow" in said[0]
    with pytest.raises(UsageError, match="frames 3000000: give 1 to 1000"):
        scores_of(run, frames=3_000_000)


def test_flow_of_another_method_is_told(tmp_path: Path) -> None:
    run, said = trained(tmp_path), []
    saved = checkpoints.load(run)
    saved.settings["flow"]["method"] = "brox"
    checkpoints.save(run / checkpoints.NAME, saved)
    scores_of(run, say=said.append)
    assert [text for text in said if "trained on brox flow" in text]
