"""Class scores of videos: what evaluation measures, fusion combines and a report shows; kept as an .npz file.

The file holds three arrays: ``scores``, ``labels``, and ``about``, the rest as JSON (ASCII). NumPy reads it without
running code: ``json.loads(np.load(path)["about"].item())``.
"""

from __future__ import annotations

import io
import json
import struct
import tokenize
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import RefusedError
from flowprep.store.replacing import replacing
from flowprep.types import SPLITS
from flowprep.wording import plural, printable, some

TRAIN, TEST = "train", "test"  # parts of a split
UNKNOWN = -1  # label of a video whose class nobody has given
ARRAYS = {"scores": np.dtype(np.float32), "labels": np.dtype(np.int64)}
LISTS = ("ids", "classes")
TEXTS = ("name", "stream", "part", "checkpoint", "dataset", "net", "fingerprint")
NUMBERS = ("split", "frames", "crops")
MAX_BYTES = 2**32  # of a file: scores of ten million videos of a hundred classes
DAMAGE = (  # what zipfile, NumPy and json raise for files that are not what they should be
    *(ArithmeticError, EOFError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Scores of N videos for C classes. Raises ValueError, saying why, for fields that contradict each other."""

    scores: NDArray[np.float32]  # (N, C) mean softmax of a video's inputs; rows sum to 1, unless the scores are fused
    labels: NDArray[np.int64]  # (N,) number of the class, or UNKNOWN
    ids: tuple[str, ...]  # of the videos, unique
    classes: tuple[str, ...]  # unique
    name: str  # for tables: "spatial", "temporal", "fused, average"
    stream: str  # "spatial", "temporal" or "fused"
    split: int  # 0: of no dataset
    part: str  # "train", "val" or "test"; "" is every video
    frames: int  # of a video that were looked at; 0 = streams that were fused differ
    crops: int  # of each frame; 0 as above
    checkpoint: str = ""  # path; "" if fused
    dataset: str = ""  # path
    net: str = ""
    fingerprint: str = ""  # of the dataset's content

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise ValueError(fault)

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.ids)

    def __str__(self) -> str:
        """``"temporal, split 1, test: 3,783 videos, accuracy 81.00 %, mean class recall 80.75 %"``"""
        part = self.part or "all parts"
        measured = "without labels"
        if self.known.any():
            measured = f"accuracy {self.accuracy:.2%}, mean class recall {self.mean_recall:.2%}".replace("%", " %")
        of = f"{self.shown}, split {self.split}, {printable(part)}"
        return f"{of}: {plural(len(self), 'video')}, {measured}"

    @property
    def shown(self) -> str:
        """The name, for a terminal."""
        return printable(self.name)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(N,) number of the class with the highest score; of equal ones the first."""
        predicted: NDArray[np.int64] = self.scores.argmax(axis=1)
        return predicted

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) whether the label of the video is known."""
        return np.not_equal(self.labels, UNKNOWN)

    @property
    def probable(self) -> bool:
        """Whether the scores of each video are probabilities: not negative, their sum 1."""
        return bool(self.scores.min() >= 0 and abs(self.scores.sum(axis=1) - 1).max() <= 1e-3)

    @property
    def accuracy(self) -> float:
        """Share of the labelled videos whose class has the highest score; nan where none is labelled."""
        right = (self.predicted == self.labels)[self.known]
        return float(right.mean()) if len(right) else float("nan")

    def recall(self) -> NDArray[np.float64]:
        """(C,) share of the videos of each class that are taken for it; nan for a class without videos."""
        table = self.confusion()
        videos = table.sum(axis=1)
        return np.where(videos > 0, table.diagonal() / np.maximum(videos, 1), np.nan)

    @property
    def mean_recall(self) -> float:
        """Mean of :meth:`recall` over the classes that have videos; nan where none has."""
        recall = self.recall()
        return float(np.nanmean(recall)) if self.known.any() else float("nan")

    def confusion(self) -> NDArray[np.int64]:
        """(C, C) numbers of labelled videos: row = their class, column = what they are taken for."""
        table = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(table, (self.labels[self.known], self.predicted[self.known]), 1)
        return table

    def arranged(self, ids: Sequence[str], classes: Sequence[str]) -> Scores:
        """The same scores, videos and classes in another order; ``ids`` may be some of the videos.

        Raises RefusedError where the classes are others, or a video is lacking.
        """
        if set(classes) != set(self.classes):
            differing = sorted(set(classes) ^ set(self.classes))
            raise RefusedError(
                f"{self.shown}: its classes are not those of the other scores; only one has: {some(differing)}. "
                "Only scores for the same classes can be fused."
            )
        rows = {id: number for number, id in enumerate(self.ids)}
        if lacking := [id for id in ids if id not in rows]:
            raise RefusedError(f"{self.shown}: no scores of {some(lacking)}, which other scores have.")
        columns = {name: number for number, name in enumerate(self.classes)}
        chosen = np.array([rows[id] for id in ids], np.intp)
        order = np.array([columns[name] for name in classes], np.intp)
        number_of = np.append(np.argsort(order), UNKNOWN)  # old number -> new one; the last entry is UNKNOWN's
        return replace(
            self,
            scores=self.scores[chosen][:, order],
            labels=number_of[self.labels[chosen]],
            ids=tuple(ids),
            classes=tuple(classes),
        )

    def save(self, path: Path) -> None:
        """Write the file in one step, in place of what may be there. Raises StoreError."""
        about = {name: getattr(self, name) for name in (*TEXTS, *NUMBERS, *LISTS)}
        with replacing(path) as file:
            np.savez(file, scores=self.scores, labels=self.labels, about=np.array(json.dumps(about).encode()))

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read a file of :meth:`save`. Raises RefusedError naming the file for anything else."""
        try:
            if not path.is_file():
                raise RefusedError(f"{path}: no such file. flowprep evaluate writes scores.")
            arrays = _members(path)
            about = dict(json.loads(arrays.pop("about").item()))
            return cls(**arrays, **about | {key: tuple(about[key]) for key in LISTS})
        except OSError as error:
            raise RefusedError(f"{path}: cannot be read ({error.strerror or error}).") from None
        except DAMAGE as error:
            reason = " ".join(str(error).split())[:200]
            raise RefusedError(
                f"{path}: no file of scores, or damaged ({reason}). Run flowprep evaluate again."
            ) from None

    def _faults(self) -> Iterator[str]:
        """What is wrong, most basic first."""
        for name in TEXTS:
            if not isinstance(getattr(self, name), str):
                yield f"{name} is no text"
        for name in NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                yield f"{name} is no whole number"
        if self.split > SPLITS:
            yield f"split is more than {SPLITS}"
        for name in LISTS:
            entries = getattr(self, name)
            if not all(isinstance(entry, str) for entry in entries):
                yield f"{name} are no texts"
            if len(set(entries)) != len(entries):
                yield f"{name} name something twice"
        if not self.ids or not self.classes:
            yield "no videos, or no classes"
        for name, shape in (("scores", (len(self.ids), len(self.classes))), ("labels", (len(self.ids),))):
            array = getattr(self, name)
            if array.dtype != ARRAYS[name] or array.shape != shape:
                yield f"{name} are {array.dtype} {array.shape}, not {ARRAYS[name]} {shape}"
        if not np.isfinite(self.scores).all():
            yield "scores that are not finite"
        if self.checkpoint and not self.probable:
            yield "scores of a video do not sum to 1"
        if self.labels.min() < UNKNOWN or self.labels.max() >= len(self.classes):
            yield "labels that are no numbers of classes"


def _members(path: Path) -> dict[str, Any]:
    """The arrays of a file. Members are stored as they are, so that no small file becomes a large array."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = sorted(entry.filename for entry in entries)
        if names != sorted(f"{name}.npy" for name in ("about", *ARRAYS)):
            raise ValueError("other members than scores have")
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
            raise ValueError("compressed or encrypted")
        if max(path.stat().st_size, *(entry.file_size for entry in entries)) > MAX_BYTES:
            raise ValueError("too large")
        return {
            name.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
            for name in names
        }
