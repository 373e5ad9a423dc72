"""Fusing scores: what each method must do whatever the scores are, and what it refuses."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep.errors import RefusedError, UsageError
from flowprep.train.fusion import CANDIDATES, FOLDS, ITERATIONS, METHODS, features, fuse, in_common, stratified
from flowprep.train.scores import UNKNOWN, Scores
from tests.score_data import random_scores, scores_of, softmax

SEEDS = st.integers(0, 2**32)
FEW = settings(deadline=None, max_examples=25)
SIMPLE = [method for method in METHODS if method not in ("logistic", "svm")]
LEARNED = ["logistic", "svm"]


def pair(seed: int, videos: int = 12, classes: int = 4, **other: Any) -> tuple[Scores, Scores]:
    return tuple(
        random_scores(seed + n, videos, classes, name, **other) for n, name in enumerate(("spatial", "temporal"))
    )


def shuffled(scores: Scores, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    return scores.arranged(rng.permutation(scores.ids).tolist(), rng.permutation(scores.classes).tolist())


def same(one: Scores, other: Scores) -> bool:
    other = other.arranged(one.ids, one.classes)
    return one.scores.tobytes() == other.scores.tobytes() and one.labels.tolist() == other.labels.tolist()


# --- average, weighted, max ---


@FEW
@given(SEEDS)
def test_a_stream_fused_with_itself_is_itself(seed: int) -> None:
    stream = random_scores(seed, 12, 4)
    for method in ("average", "max"):
        assert same(fuse([stream, stream], method), stream)
    assert np.allclose(fuse([stream, stream], "weighted").scores, stream.scores, rtol=1e-6)


@FEW
@given(SEEDS)
def test_each_method_against_its_definition(seed: int) -> None:
    spatial, temporal = pair(seed)
    a, b = spatial.scores.astype(float), temporal.scores.astype(float)
    for method, expected in (("average", (a + b) / 2), ("weighted", (a + 1.5 * b) / 2.5), ("max", np.maximum(a, b))):
        assert np.allclose(fuse([spatial, temporal], method).scores, expected, rtol=1e-6), method


@FEW
@given(SEEDS, st.floats(0.001, 1000))
def test_weights_have_any_scale_and_zero_takes_out(seed: int, scale: float) -> None:
    spatial, temporal = pair(seed)
    assert same(fuse([spatial, temporal], "weighted", (1, 0)), spatial)
    assert same(fuse([spatial, temporal], "weighted", (0, scale)), temporal)
    one, other = (fuse([spatial, temporal], "weighted", (factor * 1, factor * 3)) for factor in (1, scale))
    assert np.allclose(one.scores, other.scores, rtol=1e-6)


@FEW
@given(SEEDS, st.sampled_from(SIMPLE))
def test_order_of_videos_and_classes_and_streams_is_of_no_account(seed: int, method: str) -> None:
    spatial, temporal = pair(seed)
    fused = fuse([spatial, temporal], method)
    assert same(fuse([shuffled(spatial, seed + 1), shuffled(temporal, seed + 2)], method), fused)
    assert np.allclose(fuse([temporal, spatial], method).scores, fused.scores, rtol=1e-6)


@FEW
@given(SEEDS, st.sampled_from(["average", "weighted"]))
def test_means_of_probabilities_are_probabilities(seed: int, method: str) -> None:
    fused = fuse(pair(seed), method)
    assert fused.scores.min() >= 0
    assert np.allclose(fused.scores.sum(axis=1), 1, rtol=1e-5)


def test_what_fused_scores_say_of_themselves() -> None:
    spatial, temporal = pair(1)
    fused = fuse([spatial, replace(temporal, net="vgg16", frames=10)])
    assert (fused.name, fused.stream, fused.net) == ("fused, average", "fused", "cnn-m-2048 + vgg16")
    assert (fused.split, fused.part, fused.frames, fused.crops, fused.checkpoint) == (1, "test", 0, 10, "")


def test_a_label_that_one_stream_knows_is_known() -> None:
    spatial, temporal = pair(1)
    unknown = np.full(12, UNKNOWN)
    assert fuse([spatial, replace(temporal, labels=unknown)]).labels.tolist() == spatial.labels.tolist()
    assert math.isnan(fuse([replace(spatial, labels=unknown), replace(temporal, labels=unknown)]).accuracy)


# --- learned ---


def parity(seed: int, videos: int, prefix: str, part: str, classes: int = 4) -> list[Scores]:
    """Two streams that are right together alone: one sees the half that a class is in, the other its place there."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    seen = []
    for name, shown in (("spatial", labels // 2), ("temporal", labels % 2)):
        logits = rng.normal(scale=0.3, size=(videos, classes))
        # A class that stands for what is seen, never the right one by itself: 0 and 1 in one, 2 and 3 in the other.
        logits[np.arange(videos), (shown + 2 * (name == "temporal")) % classes] += 3
        seen.append(scores_of(softmax(logits), labels, name, prefix, part=part))
    return seen


@pytest.mark.parametrize("method", LEARNED)
def test_a_learned_fusion_finds_what_neither_stream_shows(method: str) -> None:
    streams, training = parity(1, 80, "test", "test"), parity(2, 80, "train", "train")
    said: list[str] = []
    fused = fuse(streams, method, training=training, say=said.append)
    assert fused.accuracy == 1
    assert max(stream.accuracy for stream in streams) < 0.6
    assert fuse(streams, "average").accuracy < 0.6
    assert len(said) == 1
    assert "C = 0.01: 80 of 80 training videos right" in said[0]


@pytest.mark.parametrize("method", LEARNED)
def test_order_is_of_no_account_to_what_is_learned(method: str) -> None:
    streams, training = parity(3, 24, "test", "test"), parity(4, 40, "train", "train")
    fused = fuse(streams, method, training=training, c=1)
    other = fuse(
        [shuffled(stream, 5 + number) for number, stream in enumerate(streams)],
        method,
        training=[shuffled(stream, 7 + number) for number, stream in enumerate(reversed(training))],
        c=1,
    )
    assert same(fused, other)


@FEW
@given(SEEDS)
def test_each_half_of_the_features_has_unit_norm(seed: int) -> None:
    x = features(pair(seed))
    assert x.shape == (12, 8)
    assert np.allclose([np.linalg.norm(x[:, :4], axis=1), np.linalg.norm(x[:, 4:], axis=1)], 1)
    for half, stream in ((x[:, :4], pair(seed)[0]), (x[:, 4:], pair(seed)[1])):
        assert np.allclose(half / half.sum(axis=1, keepdims=True), stream.scores, atol=1e-6)


def objective(w: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.int64], c: float) -> float:
    """1/2 sum |w_c|^2 + C sum_i max(0, 1 + max over c != y_i of w_c.x_i - w_y_i.x_i)."""
    loss = 0.0
    for sample, label in zip(x, y, strict=True):
        values = w @ sample
        loss += max(0.0, 1 + np.delete(values, label).max() - values[label])
    return float((w**2).sum() / 2 + c * loss)


def test_the_svm_minimises_what_crammer_and_singer_state() -> None:
    streams, training = parity(5, 16, "test", "test"), parity(6, 40, "train", "train")
    fused = fuse(streams, "svm", training=training, c=0.5)
    w = np.linalg.lstsq(features(streams), fused.scores, rcond=None)[0].T  # decision values are linear, without offset
    assert np.allclose(features(streams) @ w.T, fused.scores, atol=1e-5)
    x, y = features(training), training[0].labels
    least = objective(w, x, y, 0.5)
    rng = np.random.default_rng(0)
    for size in (0.1, 0.01):
        for _ in range(50):
            assert objective(w + size * rng.normal(size=w.shape), x, y, 0.5) > least


@pytest.mark.parametrize("method", LEARNED)
def test_two_classes_and_classes_without_training_videos(method: str) -> None:
    labels = np.arange(20) % 2
    values = softmax(np.where(np.arange(2) == labels[:, None], 2.0, 0.0))
    names = ("spatial", "temporal")
    three = np.hstack([values, np.zeros((20, 1), np.float32)])
    for classes in (values, three):
        training = [scores_of(classes, labels, name, prefix="train", part="train") for name in names]
        fused = fuse([scores_of(classes, labels, name) for name in names], method, training=training)
        assert fused.accuracy == 1
    assert (fused.scores[:, 2] < fused.scores[:, :2].min(axis=1) + 1e-9).all()


def test_training_videos_without_a_label_are_not_learned_from() -> None:
    streams, training = parity(1, 20, "test", "test"), parity(2, 40, "train", "train")
    some = [replace(stream, labels=np.where(np.arange(40) < 4, UNKNOWN, stream.labels)) for stream in training]
    fewer = [stream.arranged(stream.ids[4:], stream.classes) for stream in training]
    assert same(fuse(streams, "svm", training=some, c=1), fuse(streams, "svm", training=fewer, c=1))
    none = [replace(stream, labels=np.full(40, UNKNOWN)) for stream in training]
    with pytest.raises(RefusedError, match="fewer than two classes"):
        fuse(streams, "svm", training=none)


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.filterwarnings("error")
def test_one_line_says_that_the_final_fit_has_no_end(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams, training = parity(1, 20, "test", "test"), parity(2, 40, "train", "train")
    said: list[str] = []
    fuse(streams, method, training=training, say=said.append, quiet=True)
    assert said == []
    monkeypatch.setitem(ITERATIONS, method, 1)
    fuse(streams, method, training=training, say=said.append, quiet=True)
    assert len(said) == 1 and f"{method}, C = 0.01: not fitted to the end after 1 iterations" in said[0]


@FEW
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_folds_are_stratified(labels: Sequence[int]) -> None:
    y = np.array(labels)
    folds = stratified(y)
    for label in set(labels):
        own = folds[y == label]
        if len(own) == 1:
            assert own.tolist() == [-1]  # always learned from: nothing else shows this class
        else:
            counts = np.bincount(own, minlength=FOLDS)
            assert counts.sum() == len(own)
            assert counts.max() - counts.min() <= 1
            assert counts.max() < len(own)  # each fold leaves something of every class to learn from
    sizes = np.bincount(folds[folds >= 0], minlength=FOLDS)
    assert sizes.max() - sizes.min() <= 1


def test_the_best_c_is_taken_of_equal_ones_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowprep.train import fusion

    class Fake:
        def __init__(self, c: float) -> None:
            self.c = c

    def decide(model: Fake, x: NDArray[Any], classes: int) -> NDArray[Any]:
        right = {1.0: 0.9, 10.0: 0.9}.get(model.c, 0.5)
        return np.eye(classes)[(x[:, 0] * (np.arange(len(x)) < right * len(x))).astype(int)]

    monkeypatch.setattr(fusion, "_fitted", lambda _, c, *__: Fake(c))
    monkeypatch.setattr(fusion, "_decide", decide)
    y = np.ones(100, np.int64)
    said: list[str] = []
    assert fusion._best("svm", y[:, None].astype(float), y, said.append) == 1.0
    assert said == ["C = 1: 90 of 100 training videos right in 5-fold cross-validation"]
    assert 1.0 in CANDIDATES


# --- what is refused ---


def refused(*streams: Scores, match: str, error: type[Exception] = RefusedError, **options: Any) -> None:
    with pytest.raises(error, match=match):
        fuse(streams, **options)


def test_scores_that_do_not_go_together_are_refused() -> None:
    spatial, temporal = pair(1)
    fewer = temporal.arranged(temporal.ids[:-2], temporal.classes)
    refused(spatial, fewer, match=r"temporal lacks 2 videos that spatial has: v0010, v0011.*--common")
    refused(fewer, spatial, match=r"temporal lacks 2 videos")
    refused(spatial, replace(temporal, split=2), match="split 1, temporal of 'test' of 2")
    refused(spatial, replace(temporal, part="train"), match="'test' of split 1, temporal of 'train'")
    refused(spatial, replace(temporal, classes=("c00", "c01", "c02", "x")), match="only one has: c03, x")
    refused(spatial, replace(temporal, labels=(temporal.labels + 2) % 5 - 1), match="different labels for v00")


@pytest.mark.parametrize("method", ["average", "weighted", "max"])
def test_scores_that_are_no_probabilities_are_not_averaged(method: str) -> None:
    spatial, temporal = pair(1)
    decided = replace(temporal, scores=temporal.scores * 7 - 1, name="fused, svm", checkpoint="")
    refused(spatial, decided, match="fused, svm: the scores of a video do not sum to 1", method=method)


def test_training_scores_that_do_not_fit_are_refused() -> None:
    streams, training = parity(1, 20, "test", "test"), parity(2, 20, "train", "train")
    refused(*streams, match="--train", error=UsageError, method="svm")
    refused(*streams, match="same names.*given are spatial$|given are spatial", method="svm", training=training[:1])
    refused(*streams, match="20 videos in the training scores too", method="svm", training=streams)
    other = [replace(stream, split=2) for stream in training]
    refused(*streams, match="split 2 for split 1", method="svm", training=other)
    alike = [replace(stream, name="temporal") for stream in streams]
    alike_training = [replace(stream, name="temporal") for stream in training]
    refused(*alike, match="--name", method="svm", training=alike_training)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "mean"}, "average, weighted"),
        ({"weights": (1, 2)}, "leave them out"),
        ({"method": "weighted", "weights": (1,)}, "give 2, one a stream"),
        ({"method": "weighted", "weights": (0, 0)}, "not all of them 0"),
        ({"method": "weighted", "weights": (1, -1)}, "0 or more"),
        ({"method": "weighted", "weights": (1, math.nan)}, "0 or more"),
        ({"method": "weighted", "weights": (1e308, 1e308)}, "none of them huge"),
        ({"method": "max", "c": 1.0}, "leave them out"),
        ({"method": "svm", "c": -1.0, "training": parity(2, 20, "train", "train")}, "positive"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], match: str) -> None:
    refused(*pair(1), match=match, error=UsageError, **options)


def test_without_streams_there_is_nothing_to_fuse() -> None:
    with pytest.raises(UsageError, match="no scores"):
        fuse([])
    for method in METHODS:
        refused(pair(1)[0], match="spatial, split 1: one stream alone", error=UsageError, method=method)


def test_names_in_messages_do_not_steer_the_terminal() -> None:
    spatial, temporal = pair(1)
    odd = replace(temporal, name="a\x1b[2J", classes=("c00", "c01", "c02", "d\x1b[2J"))
    refused(spatial, odd, match=r"^a\?\[2J: .* only one has: c03, d\?\[2J\.")
    refused(spatial, replace(temporal, ids=("x\x1b", *temporal.ids[1:]), name="a\x1b"), match=r"a\? lacks 1 video")
    refused(replace(spatial, ids=("x\x1b", *temporal.ids[1:])), temporal, match=r"that spatial has: x\?\.")


def test_weights_of_other_streams_must_be_given() -> None:
    fused = fuse(pair(1))
    refused(fused, fused, match="fused scores: give them with --weights", error=UsageError, method="weighted")


@FEW
@given(SEEDS)
def test_videos_in_common(seed: int) -> None:
    spatial, temporal = pair(seed)
    one = spatial.arranged(spatial.ids[:8], spatial.classes)
    other = temporal.arranged(temporal.ids[4:], temporal.classes)
    left, right = in_common([one, other])
    assert left.ids == right.ids == spatial.ids[4:8]
    assert same(left, spatial.arranged(spatial.ids[4:8], spatial.classes))
    with pytest.raises(RefusedError, match="no video in common"):
        in_common([one, replace(other, ids=tuple(f"x{id}" for id in other.ids))])


def test_fusing_imports_neither_torch_nor_scikit_learn() -> None:
    code = "import sys, flowprep.train.fusion; assert not {'torch', 'sklearn'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
