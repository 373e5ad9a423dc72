"""Which of several heads scores a dataset, and what is said of scores that mean less than they seem to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowprep.config import StreamConfig
from flowprep.errors import RefusedError, UsageError
from flowprep.store.reader import Dataset, VideoTable
from flowprep.train import checkpoint as checkpoints
from flowprep.train import evaluate as evaluating
from flowprep.train.checkpoint import Task
from flowprep.train.learned_from import identity
from tests.loader_data import flow_dataset, flow_folder
from tests.one_thread import one_thread  # noqa: F401 - for all tests here
from tests.test_evaluate import CLASSES, config_of, scores_of, stacks_of, trained
from tests.training_data import dataset as small
from tests.training_data import run as train
from tests.training_data import tiny

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


def files(*labels: str) -> dict[str, int]:
    """The videos of the dataset, or those of some classes, as a run writes down that it has learned from them."""
    return {identity(row): 0 for row in flow_dataset().videos if not labels or row.label in labels}


def told(run: Path, dataset: Path | Dataset) -> list[str]:
    """What is said of videos that the network of ``run`` has learned from."""
    said: list[str] = []
    scores_of(run, dataset, split=2, say=said.append)
    return [text for text in said if "no test" in text or "not known" in text]


ALL_OF_THEM = ["5 of 5 videos were trained on (split 2): this is no test."]


def test_a_run_knows_what_it_was_trained_on(tmp_path: Path) -> None:
    """Also where the dataset at that path has other parts now."""
    outcome, _ = train(tiny(tmp_path, solver={"iterations": 1}))
    for part, expected in (("train", "8 of 8 videos were trained on (split 1): this is no test."), ("test", "")):
        said: list[str] = []
        evaluating.evaluate(outcome.checkpoint, small(), part=part, frames=1, crops=1, device="cpu", say=said.append)
        assert [text for text in said if "no test" in text] == [expected] * bool(expected)
    exchanged = Dataset(small())
    rows = [replace(row, video=replace(row.video, splits=("test", "", ""))) for row in exchanged.videos]
    exchanged.videos = VideoTable(rows)
    evaluating.evaluate(outcome.checkpoint, exchanged, frames=1, crops=1, device="cpu", say=said.append)
    assert said[-1] == "8 of 12 videos were trained on (split 1): this is no test."


def test_videos_are_known_again_by_their_files(tmp_path: Path) -> None:
    stacks = stacks_of("flow")
    assert told(trained(tmp_path), stacks) == []
    assert told(trained(tmp_path, learned=[files()]), flow_folder()) == ALL_OF_THEM
    assert told(trained(tmp_path, learned=[files()]), stacks) == ALL_OF_THEM
    assert told(trained(tmp_path, learned=[{}, files("large")]), stacks)[0].startswith("3 of 5 videos were trained on")
    renamed = flow_dataset()
    rows = [replace(row, video=replace(row.video, id=f"up/{row.id}")) for row in renamed.videos]
    renamed.videos = VideoTable(rows)
    assert told(tmp_path / "run", renamed)[0].startswith("3 of 5 videos were trained on")
    others = {row.id: 0 for row in flow_dataset().videos}  # videos of the same names, with other content
    assert told(trained(tmp_path, learned=[others]), flow_folder()) == []


def test_videos_that_first_weights_were_trained_on(tmp_path: Path) -> None:
    def after(weights: Path) -> StreamConfig:
        config = config_of("temporal")
        return replace(config, net=replace(config.net, weights=str(weights)))

    start = trained(tmp_path / "start", learned=[files()])
    again = trained(tmp_path / "again", config=after(start))
    for weights in (start, again):  # which the run before had its weights from
        assert told(trained(tmp_path, config=after(weights)), flow_folder()) == ALL_OF_THEM
    torch.save({}, tmp_path / "imagenet.pt")
    for weights in (tmp_path / "imagenet.pt", tmp_path / "gone.pt", tmp_path / "run"):  # the last are its own
        assert told(trained(tmp_path, config=after(weights)), flow_folder()) == []


def test_a_run_of_an_older_version_does_not_know_its_videos(tmp_path: Path) -> None:
    run = trained(tmp_path)
    saved = checkpoints.load(run)
    saved.learned = None
    checkpoints.save(run / checkpoints.NAME, saved)
    assert told(run, flow_folder()) == ["run: of an older version; which videos it was trained on is not known."]


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
