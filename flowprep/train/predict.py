"""What a video shows: the class scores of a file, by one or several trained streams.

The video becomes a dataset of its own, made as the ones that were trained on, and is scored as
:mod:`flowprep.train.evaluate` scores the videos of a dataset.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from flowprep.config import Settings
from flowprep.config.experiment import MAX_FRAMES
from flowprep.errors import RefusedError, UsageError, Verdict, VideoError
from flowprep.stacks.reach import fields_needed, frames_of
from flowprep.stacks.sources import MUST_AGREE
from flowprep.stacks.torch_loader import tensors
from flowprep.store.blobs import store_error
from flowprep.store.layout import ArrayName
from flowprep.store.reader import Dataset
from flowprep.train import checkpoint as checkpoints
from flowprep.train.checkpoint import Checkpoint
from flowprep.train.evaluate import CROPS, Scorer, warn_unfinished
from flowprep.train.fusion import fuse
from flowprep.train.inputs import test_loader
from flowprep.train.nets.network import RGB
from flowprep.train.remake import Stream, recipes, remake
from flowprep.train.scores import UNKNOWN, Scores
from flowprep.wording import plural

MOST_ORIGINS = 8  # datasets that one was made from, one after the other


@dataclass(frozen=True)
class Prediction:
    """The scores of one video."""

    scores: Scores  # of all streams together
    streams: tuple[Scores, ...]  # of each

    def ranked(self) -> list[dict[str, Any]]:
        """All classes, the likeliest first: its name, its score, and its score by each stream."""
        each = [stream.arranged(stream.ids, self.scores.classes) for stream in self.streams]
        order = np.argsort(-self.scores.scores[0], kind="stable")  # of equal ones the first
        return [
            {
                "class": self.scores.classes[number],
                "score": float(self.scores.scores[0, number]),
                "streams": {stream.name: float(stream.scores[0, number]) for stream in each},
            }
            for number in order
        ]


class Predictor:
    """Trained networks, ready for videos.

    Parameters
    ----------
    paths: checkpoints, or folders of runs. Of a network with several tasks it is the first whose classes are scored.
    weights: of the streams in the mean of their scores; default: all alike.
    frames, crops, device, batch: as :func:`~flowprep.train.evaluate.evaluate` has them.
    say: is told what makes the scores mean less; and, unless ``quiet``, what happens.

    Raises UsageError or RefusedError for checkpoints that cannot be read, or not be used together.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        weights: Sequence[float] | None = None,
        frames: int = 25,
        crops: int = 10,
        device: str = "",
        batch: int = 250,
        say: Callable[[str], None] = lambda _: None,
        quiet: bool = True,
    ) -> None:
        if not paths or crops not in CROPS or not 1 <= frames <= MAX_FRAMES or batch < 1:
            raise UsageError(
                f"{plural(len(paths), 'checkpoint')}, frames {frames}, crops {crops}, batch {batch}: give one or "
                f"more, up to {MAX_FRAMES} frames, {', '.join(map(str, CROPS))} crops, a positive batch."
            )
        if weights is not None and len(weights) != len(paths):
            raise UsageError(f"weights {weights}: give one for each of {plural(len(paths), 'checkpoint')}.")
        self.weights = weights
        self.frames = frames
        self.crops = crops
        self.paths = [path / checkpoints.NAME if path.is_dir() else path for path in paths]
        self.checkpoints = [checkpoints.load(path) for path in self.paths]
        self.names = _names([checkpoint.config.stream for checkpoint in self.checkpoints])
        for path, checkpoint in zip(self.paths, self.checkpoints, strict=True):
            warn_unfinished(path, checkpoint, say)
        self._say = (lambda _: None) if quiet else say
        self._quiet = quiet
        self._kept: Counter[str] = Counter()  # videos by their names
        streams = [
            Stream(checkpoint.config, _settings(path, checkpoint))
            for path, checkpoint in zip(self.paths, self.checkpoints, strict=True)
        ]
        self._rehearse()
        self._recipes = recipes(streams, say)
        self._scorers = [
            Scorer(checkpoint, 0, device=device, crops=crops, batch=batch) for checkpoint in self.checkpoints
        ]

    def predict(self, video: Path, keep: Path | None = None) -> Prediction:
        """The scores of a video.

        keep: folder in which a new one, of the video's name (of the second such video: NAME-2), gets the datasets made
            of it; by default they are thrown away.

        Raises VideoError, with the verdict, for a video that cannot be used.
        """
        self._kept[video.name] += 1
        again = self._kept[video.name]
        with _folder(video.name if again == 1 else f"{video.name}-{again}", keep) as name:
            each = []
            for number, recipe in enumerate(self._recipes):
                with closing(remake(recipe, video, Path(name), self._say, quiet=self._quiet)) as dataset:
                    each.append(self._score(number, video, dataset))
        return Prediction(self._together(each), tuple(each))

    def _score(self, number: int, video: Path, dataset: Dataset) -> Scores:
        """Scores by one stream of the one video in ``dataset``."""
        config = self.checkpoints[number].config
        _check_size(dataset, config.stream == "spatial", config.data.crop)
        if config.stream == "temporal" and not dataset.settings.stack:
            fields = dataset.videos[0].fields
            if not frames_of(config.stack, fields):
                needed = fields_needed(config.stack)
                raise VideoError(Verdict.TOO_SHORT, f"it has {plural(fields, 'field')}, a stack needs {needed}")
        loader = test_loader(config, dataset, part="", split=None)
        scores = self._scorers[number].scores(tensors(loader.test_batch(0, self.frames)))
        if not np.isfinite(scores).all():
            raise RefusedError(f"{self.paths[number]}: its scores are not finite: the training has diverged.")
        return self._named(number, scores, str(video))

    def _named(self, number: int, scores: Any, id: str) -> Scores:
        checkpoint = self.checkpoints[number]
        return Scores(
            scores=scores[None],
            labels=np.array([UNKNOWN], np.int64),
            ids=(id,),
            classes=checkpoint.tasks[0].classes,
            name=self.names[number],
            stream=checkpoint.config.stream,
            split=0,
            part="",
            frames=self.frames,
            crops=self.crops,
            checkpoint=str(self.paths[number].absolute()),
            net=checkpoint.config.net.name,
        )

    def _rehearse(self) -> None:
        """Put scores of nothing together: what does not fit is refused before a video is decoded."""
        each = []
        for number, checkpoint in enumerate(self.checkpoints):
            classes = len(checkpoint.tasks[0].classes)
            each.append(self._named(number, np.full(classes, 1 / classes, np.float32), ""))
        self._together(each)

    def _together(self, each: Sequence[Scores]) -> Scores:
        """The mean of the streams' scores."""
        if len(each) == 1:
            return each[0]
        return fuse(each, "average") if self.weights is None else fuse(each, "weighted", self.weights)


def _settings(path: Path, checkpoint: Checkpoint) -> Settings:
    """Of the dataset that was trained on. Raises RefusedError for what cannot be those."""
    try:
        settings = Settings.from_json(checkpoint.settings)
    except (KeyError, TypeError, UsageError) as error:
        raise RefusedError(f"{path}: the settings of its dataset cannot be read ({error}).") from None
    config, spatial = checkpoint.config, checkpoint.config.stream == "spatial"
    framed = all(storage.rgb for storage in (*settings.origins, settings.storage))
    if spatial:
        fits = framed and checkpoint.channels == RGB
    else:
        alike = not settings.stack or all(
            getattr(settings.stack, key) == getattr(config.stack, key) for key in MUST_AGREE
        )
        fits = alike and checkpoint.channels == 2 * config.stack.length
    if not fits or (settings.stack and not settings.derived) or len(settings.origins) > MOST_ORIGINS:
        raise RefusedError(f"{path}: the settings of its dataset are not those of its network's inputs.")
    return settings


def _names(streams: Sequence[str]) -> list[str]:
    """``["spatial", "temporal", "temporal 2"]``"""
    return [
        stream if stream not in streams[:number] else f"{stream} {streams[: number + 1].count(stream)}"
        for number, stream in enumerate(streams)
    ]


def _folder(own: str, keep: Path | None) -> AbstractContextManager[str]:
    """A folder to work in, which goes away afterwards unless it is to be kept."""
    return TemporaryDirectory(prefix="flowprep-") if keep is None else _kept(keep / own)


@contextmanager
def _kept(folder: Path) -> Iterator[str]:
    """A new folder, which goes away where an error ends the work in it: the same command may be run again."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RefusedError(f"{folder} is there already: name another folder to keep datasets in.") from None
    except NotADirectoryError:
        raise UsageError(
            f"{folder.parent}: not a folder, or below a file: name another one to keep datasets in."
        ) from None
    except OSError as error:
        raise store_error(folder, error) from error
    try:
        yield str(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_size(dataset: Dataset, frames: bool, crop: int) -> None:
    """Raises VideoError where crops do not fit into the inputs that the one video of ``dataset`` has."""
    row = dataset.videos[0].row
    place = row.frames if frames else row.flow
    assert place
    array = ArrayName.parse(place.array)
    if min(array.height, array.width) < crop:
        size = f"{array.width}x{array.height}"
        raise VideoError(Verdict.TOO_SMALL, f"its inputs are of {size} pixels, the network looks at {crop}x{crop}")
