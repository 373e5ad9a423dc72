"""Late fusion: the scores of several streams for the same videos become one.

The methods of the two-stream paper (Simonyan & Zisserman, NIPS 2014, section 5) are the average of the softmax scores,
and a linear SVM on them. A learned fusion is trained on scores of the training videos: test scores would leak.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError, UsageError
from flowprep.train.scores import UNKNOWN, Scores
from flowprep.wording import plural, some

METHODS = ("average", "weighted", "max", "logistic", "svm")
LEARNED = ("logistic", "svm")
WEIGHTS = {"spatial": 1.0, "temporal": 1.5}  # of the temporal segment networks (Wang et al., ECCV 2016)
CANDIDATES = (0.01, 0.1, 1.0, 10.0, 100.0)  # for C, where cross-validation chooses it
FOLDS = 5
ITERATIONS = {"logistic": 10_000, "svm": 100_000}  # of the solvers, at most; the latter is LIBLINEAR's own limit


def fuse(
    streams: Sequence[Scores],
    method: str = "average",
    weights: Sequence[float] | None = None,
    training: Sequence[Scores] = (),
    c: float | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> Scores:
    """One score for each video and class, from those of all ``streams``; videos and classes sorted.

    Parameters
    ----------
    streams: scores of the same videos and classes, in any order; the same split and part; two or more.
    method: "average", "weighted" mean, "max"imum of the scores; or, learned from ``training``, "logistic" regression
        or the multi-class linear "svm" of Crammer & Singer (JMLR 2001), both on :func:`features`. Scores of the
        SVM are its decision values, those of logistic regression probabilities.
    weights: of "weighted", one a stream, in any scale; default: :data:`WEIGHTS`.
    training: of the learned methods: for each stream the scores, under the same name, of other videos.
    c: of the learned methods, how much errors count against regularisation; default: that of :data:`CANDIDATES` with
        the highest accuracy in cross-validation on ``training``, of equal ones the smallest.
    say: is told of a classifier that was not fitted to the end; and, unless ``quiet``, of the C that was chosen.

    Raises UsageError for arguments that do not go together, RefusedError for scores that do not.
    """
    _check_arguments(streams, method, weights, training, c)
    streams = _matched(streams)
    if method in LEARNED:
        fused = _learned(streams, method, _of_streams(streams, training), c, say, quiet=quiet)
    else:
        fused = _combined(streams, method, weights)
    first = streams[0]
    return Scores(
        scores=fused.astype(np.float32),
        labels=_labels(streams),
        ids=first.ids,
        classes=first.classes,
        name=f"fused, {method}",
        stream="fused",
        split=first.split,
        part=first.part,
        frames=first.frames if len({stream.frames for stream in streams}) == 1 else 0,
        crops=first.crops if len({stream.crops for stream in streams}) == 1 else 0,
        dataset=first.dataset,
        net=" + ".join(dict.fromkeys(stream.net for stream in streams)),
        fingerprint=first.fingerprint,
    )


def in_common(streams: Sequence[Scores]) -> list[Scores]:
    """The scores of those videos that all ``streams`` have. Raises RefusedError where there is none."""
    if not streams:
        return []
    shared = set(streams[0].ids).intersection(*(stream.ids for stream in streams))
    if not shared:
        raise RefusedError(f"{_names(streams)} have no video in common: evaluate them on the same videos.")
    return [stream.arranged(sorted(shared), stream.classes) for stream in streams]


def features(streams: Sequence[Scores]) -> NDArray[np.float64]:
    """What a fusion learns from: scores of each stream, divided by their L2 norm, side by side: (N, streams * C)."""
    parts = [stream.scores.astype(np.float64) for stream in streams]
    norms = [np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.finfo(np.float64).tiny) for part in parts]
    return np.hstack([part / norm for part, norm in zip(parts, norms, strict=True)])


def _check_arguments(
    streams: Sequence[Scores],
    method: str,
    weights: Sequence[float] | None,
    training: Sequence[Scores],
    c: float | None,
) -> None:
    if method not in METHODS:
        raise UsageError(f"method {method!r}: give {', '.join(METHODS)}.")
    if not streams:
        raise UsageError("no scores to fuse: name the files that flowprep evaluate has written.")
    if len(streams) == 1:
        raise UsageError(f"{_names(streams)}, split {streams[0].split}: one stream alone; give two or more to fuse.")
    if weights is not None and method != "weighted":
        raise UsageError(f"weights are for the method weighted, not for {method}: leave them out.")
    if weights is not None and (len(weights) != len(streams) or min(weights) < 0 or not 0 < sum(weights) < math.inf):
        raise UsageError(
            f"weights {weights}: give {len(streams)}, one a stream, 0 or more, not all of them 0, none of them huge."
        )
    if (training or c is not None) and method not in LEARNED:
        raise UsageError(f"training scores and C are for {' and '.join(LEARNED)}, not for {method}: leave them out.")
    if not training and method in LEARNED:
        raise UsageError(
            f"{method} learns from scores of the training videos: make them with flowprep evaluate --part train, "
            "and give them with --train."
        )
    if c is not None and not 0 < c < math.inf:
        raise UsageError(f"C {c:g}: give a positive number.")


def _matched(streams: Sequence[Scores]) -> list[Scores]:
    """``streams`` with the same videos and classes in the same order. Raises RefusedError where they differ."""
    first = streams[0]
    for stream in streams:
        if (stream.split, stream.part) != (first.split, first.part):
            raise RefusedError(
                f"{first.shown} is of the part {first.part!r} of split {first.split}, {stream.shown} of "
                f"{stream.part!r} of {stream.split}: fuse scores of the same videos."
            )
        for one, other in ((first, stream), (stream, first)):
            if lacking := sorted(set(one.ids) - set(other.ids)):
                raise RefusedError(
                    f"{other.shown} lacks {plural(len(lacking), 'video')} that {one.shown} has: "
                    f"{some(lacking)}. "
                    "Evaluate both on the same videos, or fuse those in common with --common."
                )
    return [stream.arranged(sorted(first.ids), sorted(first.classes)) for stream in streams]


def _of_streams(streams: Sequence[Scores], training: Sequence[Scores]) -> list[Scores]:
    """The training scores of each stream, matched. Raises RefusedError where they do not fit."""
    names = [stream.name for stream in streams]
    if sorted(names) != sorted(stream.name for stream in training):
        raise RefusedError(
            f"scores of {_names(streams)} need training scores of the same names, one for each; "
            f"given are {_names(training)}."
        )
    by_name = {stream.name: stream for stream in training}
    if len(by_name) < len(streams):
        raise RefusedError(f"{_names(streams)}: give each its own name (flowprep evaluate --name), to tell them apart.")
    matched = _matched([by_name[name] for name in names])
    if matched[0].split != streams[0].split:
        raise RefusedError(f"training scores of split {matched[0].split} for split {streams[0].split}.")
    if both := sorted(set(matched[0].ids) & set(streams[0].ids)):
        raise RefusedError(
            f"{plural(len(both), 'video')} in the training scores too: {some(both)}. A fusion that has seen its test "
            "is no test: give scores of --part train."
        )
    return [stream.arranged(stream.ids, streams[0].classes) for stream in matched]


def _labels(streams: Sequence[Scores]) -> NDArray[np.int64]:
    """Labels of the matched ``streams``: known to one is known. Raises RefusedError where they contradict."""
    labels = np.array([stream.labels for stream in streams])
    known: NDArray[np.int64] = labels.max(axis=0)
    if (wrong := ((labels != known) & (labels != UNKNOWN)).any(axis=0)).any():
        ids = [streams[0].ids[number] for number in np.flatnonzero(wrong)]
        raise RefusedError(f"{_names(streams)} have different labels for {some(ids)}: one dataset was relabelled.")
    return known


def _combined(streams: Sequence[Scores], method: str, weights: Sequence[float] | None) -> NDArray[np.float64]:
    """What needs no training: (N, C). Raises RefusedError for scores that are no probabilities, as those of an SVM."""
    for stream in streams:
        if not stream.probable:
            raise RefusedError(
                f"{stream.shown}: the scores of a video do not sum to 1, so that they are in no scale that {method} "
                "could compare with others': fuse the streams themselves."
            )
    scores = np.array([stream.scores for stream in streams], np.float64)
    if method != "weighted":
        fused: NDArray[np.float64] = scores.max(axis=0) if method == "max" else scores.mean(axis=0)
        return fused
    if weights is None:
        if unknown := sorted({stream.stream for stream in streams} - WEIGHTS.keys()):
            raise UsageError(f"no weights are known for {some(unknown)} scores: give them with --weights.")
        weights = [WEIGHTS[stream.stream] for stream in streams]
    return np.average(scores, axis=0, weights=weights)


def _learned(
    streams: Sequence[Scores],
    method: str,
    training: Sequence[Scores],
    c: float | None,
    say: Callable[[str], None],
    *,
    quiet: bool,
) -> NDArray[np.float64]:
    """Scores (N, C) of a classifier that was fitted to ``training``."""
    labels = _labels(training)
    x, y = features(training)[labels != UNKNOWN], labels[labels != UNKNOWN]
    if len(np.unique(y)) < 2:
        raise RefusedError("the training scores have videos of fewer than two classes: nothing can be learned.")
    if c is None:
        c = _best(method, x, y, (lambda _: None) if quiet else say)
    model = _fitted(method, c, x, y)
    if np.max(model.n_iter_) >= (most := ITERATIONS[method]):
        say(f"{method}, C = {c:g}: not fitted to the end after {most:,} iterations; a smaller C needs fewer.")
    return _decide(model, features(streams), len(streams[0].classes))


def _best(method: str, x: NDArray[np.float64], y: NDArray[np.int64], say: Callable[[str], None]) -> float:
    """The C with which most held-out videos are right."""
    folds = stratified(y)
    classes = int(y.max()) + 1
    right = dict.fromkeys(CANDIDATES, 0)
    for c in CANDIDATES:
        for fold in range(FOLDS):
            held = folds == fold
            if held.any():
                scores = _decide(_fitted(method, c, x[~held], y[~held]), x[held], classes)
                right[c] += int((scores.argmax(axis=1) == y[held]).sum())
    best = max(CANDIDATES, key=lambda c: right[c])  # of equal ones the first
    held = int((folds >= 0).sum())
    say(f"C = {best:g}: {right[best]:,} of {plural(held, 'training video')} right in {FOLDS}-fold cross-validation")
    return best


def stratified(y: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) fold in which each sample is held out: the samples of a class are dealt out in turn, so that folds differ by
    one in each class and hardly in size. -1, never, for the one sample of a class: nothing else shows what it is.
    """
    folds = np.full(len(y), -1)
    dealt = 0
    for label in np.unique(y):
        members = np.flatnonzero(y == label)
        if len(members) > 1:
            folds[members] = (dealt + np.arange(len(members))) % FOLDS
            dealt += len(members)
    return folds


def _fitted(method: str, c: float, x: NDArray[np.float64], y: NDArray[np.int64]) -> Any:
    """A classifier that was fitted in at most :data:`ITERATIONS`; of how many they were its ``n_iter_`` tells."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC
    except ModuleNotFoundError:
        raise RefusedError(
            f"scikit-learn is not installed, which {method} needs: in flowprep's folder, pip install '.[train]'."
        ) from None
    if method == "svm":  # without an offset, as Crammer and Singer state it
        model = LinearSVC(
            multi_class="crammer_singer", C=c, fit_intercept=False, max_iter=ITERATIONS[method], random_state=0
        )
    else:
        model = LogisticRegression(C=c, max_iter=ITERATIONS[method])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def _decide(model: Any, x: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """(N, classes); classes that ``model`` has never seen come last in every video."""
    if hasattr(model, "predict_proba"):
        found, unseen = model.predict_proba(x), np.zeros((len(x), 1))
    else:
        found = model.decision_function(x)
        if found.ndim == 1:  # of two classes, the difference
            found = np.stack([-found / 2, found / 2], axis=1)
        unseen = found.min(axis=1, keepdims=True) - 1
    scores = np.repeat(unseen, classes, axis=1)
    scores[:, model.classes_] = found
    return scores


def _names(streams: Sequence[Scores]) -> str:
    return " and ".join(stream.shown for stream in streams)
