"""Scores measure what their names say, survive their file, and a hostile file is refused by name."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep.errors import RefusedError, StoreError
from flowprep.train.scores import NUMBERS, TEXTS, UNKNOWN, Scores
from tests.score_data import random_scores, scores_of, softmax

HAND = scores_of(
    np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05], [0.4, 0.4, 0.2]], np.float32),
    np.array([0, 0, 1, UNKNOWN, 1]),
)


def test_measures_of_a_table_made_by_hand() -> None:
    assert HAND.predicted.tolist() == [0, 1, 1, 0, 0]  # of equal scores the first class
    assert HAND.accuracy == 0.5
    assert HAND.confusion().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert HAND.recall()[:2].tolist() == [0.5, 0.5]
    assert math.isnan(HAND.recall()[2])
    assert HAND.mean_recall == 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 7))
def test_measures_against_their_definitions(seed: int, videos: int, classes: int) -> None:
    scores = random_scores(seed, videos, classes)
    table = np.zeros((classes, classes), int)
    right, labelled = 0, 0
    for row, label in zip(scores.scores, scores.labels, strict=True):
        best = max(range(classes), key=lambda number: (row[number], -number))
        if label >= 0:
            labelled += 1
            right += best == label
            table[label, best] += 1
    assert (scores.confusion() == table).all()
    assert scores.accuracy == (right / labelled) if labelled else math.isnan(scores.accuracy)
    for number, recall in enumerate(scores.recall()):
        own = table[number].sum()
        assert recall == table[number, number] / own if own else math.isnan(recall)
    assert int(table.sum()) == labelled


def test_without_labels_there_is_no_accuracy() -> None:
    unlabelled = replace(HAND, labels=np.full(5, UNKNOWN))
    assert math.isnan(unlabelled.accuracy)
    assert math.isnan(unlabelled.mean_recall)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_arranging_moves_scores_and_labels_together(seed: int, random: Any) -> None:
    scores = random_scores(seed, 9, 4)
    ids, classes = list(scores.ids), list(scores.classes)
    random.shuffle(ids)
    random.shuffle(classes)
    moved = scores.arranged(ids[:6], classes)
    assert (moved.ids, moved.classes) == (tuple(ids[:6]), tuple(classes))
    for number, id in enumerate(moved.ids):
        old = scores.ids.index(id)
        for name in classes:
            assert moved.scores[number, classes.index(name)] == scores.scores[old, scores.classes.index(name)]
        label, before = moved.labels[number], scores.labels[old]
        assert label == UNKNOWN if before == UNKNOWN else moved.classes[label] == scores.classes[before]


def test_arranging_refuses_what_it_has_not() -> None:
    with pytest.raises(RefusedError, match="only one has: c00, other"):
        HAND.arranged(HAND.ids, ("c01", "c02", "other"))
    with pytest.raises(RefusedError, match="no scores of v0009"):
        HAND.arranged(["v0001", "v0009"], HAND.classes)


@given(
    st.integers(0, 2**32),
    st.lists(st.text(), min_size=3, max_size=3, unique=True),
    st.lists(st.text(), min_size=2, max_size=2, unique=True),
    st.text(),
)
@settings(deadline=None, max_examples=20)
def test_what_is_saved_comes_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, ids: list[str], classes: list[str], text: str
) -> None:
    scores = replace(random_scores(seed, 3, 2), ids=tuple(ids), classes=tuple(classes), name=text, dataset=text)
    path = tmp_path_factory.mktemp("scores") / "new folder" / "s.npz"
    scores.save(path)
    assert_same(Scores.load(path), scores)


def assert_same(one: Scores, other: Scores) -> None:
    assert one.scores.tobytes() == other.scores.tobytes()
    assert one.labels.tolist() == other.labels.tolist()
    for name in (*TEXTS, *NUMBERS, "ids", "classes"):
        assert getattr(one, name) == getattr(other, name), name


def test_numpy_alone_reads_the_file(tmp_path: Path) -> None:
    HAND.save(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz") as file:
        assert (file["scores"] == HAND.scores).all()
        assert json.loads(file["about"].item())["ids"] == list(HAND.ids)


def test_saving_replaces_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.npz"
    HAND.save(path)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="s.npz: No space left"):
        replace(HAND, name="other").save(path)
    assert Scores.load(path).name == HAND.name
    assert list(tmp_path.iterdir()) == [path]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "not finite": ({"scores": np.full((5, 3), np.nan, np.float32)}, "not finite"),
    "rows that sum to 3": ({"scores": np.ones((5, 3), np.float32)}, "sum to 1"),
    "another shape": ({"scores": np.ones((3, 5), np.float32)}, "not float32 (5, 3)"),
    "another type": ({"scores": np.ones((5, 3))}, "are float64"),
    "text": ({"scores": np.array("scores")}, "not float32"),
    "no such class": ({"labels": np.array([0, 0, 1, 3, 1])}, "no numbers of classes"),
    "below unknown": ({"labels": np.array([0, 0, 1, -2, 1])}, "no numbers of classes"),
    "labels with a fraction": ({"labels": np.array([0, 0, 1, 0.5, 1])}, "are float64"),
    "a video twice": ({"ids": ["a", "a", "b", "c", "d"]}, "ids name something twice"),
    "a class twice": ({"classes": ["a", "b", "a"]}, "classes name something twice"),
    "too few ids": ({"ids": ["a", "b"]}, "not float32 (2, 3)"),
    "ids of no text": ({"ids": [[], {}, 1, 2, 3]}, "ids are no texts"),
    "ids are a number": ({"ids": 5}, "damaged"),
    "a split of text": ({"split": "1"}, "split is no whole number"),
    "a split that is true": ({"split": True}, "split is no whole number"),
    "a split that is not there": ({"split": 10**30}, "split is more than 3"),
    "less than no crops": ({"crops": -1}, "crops is no whole number"),
    "a name that is none": ({"name": 7}, "name is no text"),
    "a field too many": ({"colour": "red"}, "colour"),
    "an array in the text": ({"labels_": 1}, "labels_"),
    "nothing": ({"ids": [], "scores": np.ones((0, 3), np.float32), "labels": np.zeros(0, np.int64)}, "no videos"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_field_is_checked(tmp_path: Path, fault: str) -> None:
    changed, expected = FAULTS[fault]
    about = {name: getattr(HAND, name) for name in (*TEXTS, *NUMBERS, "ids", "classes")}
    arrays = {"scores": HAND.scores, "labels": HAND.labels}
    for name, value in changed.items():
        (arrays if name in arrays else about)[name] = value
    path = tmp_path / "hostile.npz"
    np.savez(path, about=np.array(json.dumps(about).encode()), **arrays)
    with pytest.raises(RefusedError) as raised:
        Scores.load(path)
    assert "hostile.npz" in str(raised.value)
    assert expected in str(raised.value)


def npy(array: NDArray[Any], **options: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, array, **options)
    return data.getvalue()


def header(shape: str) -> bytes:
    """An array of that many numbers, of which not one follows."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("sprung",)


def about(text: bytes) -> bytes:
    return npy(np.array(text))


MEMBERS = {"scores": npy(HAND.scores), "labels": npy(HAND.labels), "about": about(b"{}")}
HOSTILE: dict[str, dict[str, bytes]] = {
    "code": MEMBERS | {"scores": npy(np.array([Trap()], object), allow_pickle=True)},
    "a thousand terabytes": MEMBERS | {"scores": header("(250_000_000_000_000,)")},
    "more than memory has addresses": MEMBERS | {"scores": header(f"({2**62}, {2**62})")},
    "less than nothing": MEMBERS | {"scores": header("(-5, 3)")},
    "half a header": MEMBERS | {"scores": MEMBERS["scores"][:40]},
    "an open bracket": MEMBERS | {"scores": header("(((((((5")},
    "no array": MEMBERS | {"scores": b"not an array"},
    "deep JSON": MEMBERS | {"about": about(b"[" * 100_000)},
    "a list": MEMBERS | {"about": about(b"[1, 2]")},
    "a number": MEMBERS | {"about": npy(np.array(5))},
    "no text": MEMBERS | {"about": about(b"\xff\xfe")},
    "a member missing": {"scores": MEMBERS["scores"]},
    "a member too many": MEMBERS | {"../../outside": b"x"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in HOSTILE[kind].items():
            archive.writestr(f"{name}.npy", data)
    with pytest.raises(RefusedError, match=r"hostile\.npz: no file of scores"):
        Scores.load(path)
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, scores=np.zeros((10**6, 5), np.float32), labels=HAND.labels, about=np.array(b"{}"))
    with pytest.raises(RefusedError, match="bomb.npz.*compressed"):
        Scores.load(path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04.", b"text" * 1000])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other.npz").write_bytes(data)
    with pytest.raises(RefusedError, match="other.npz"):
        Scores.load(tmp_path / "other.npz")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pipe.npz", "missing.npz", "."):
        with pytest.raises(RefusedError, match="no such file"):
            Scores.load(tmp_path / name)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damaged_bytes_are_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damage") / "s.npz"
    HAND.save(path)
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content))) or None])
    with suppress(RefusedError):
        assert isinstance(Scores.load(path), Scores)


def test_softmax_of_the_rig_sums_to_one() -> None:
    assert np.allclose(softmax(np.array([[1000.0, 0.0], [3.0, 3.0]])).sum(axis=1), 1)
