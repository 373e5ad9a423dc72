"""Where runs are made: their datasets, settings and folders, and what they have given so far.

In the folder of a run lie its checkpoint and its scores, under the names of ``flowprep evaluate``, and in that of a
temporal network what it was fused to, so that ``flowprep report`` and ``fuse`` can read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowprep.config import STREAMS, ExperimentConfig, StreamConfig, stream_config
from flowprep.errors import RefusedError, UnfinishedError, UsageError
from flowprep.schema import merged
from flowprep.store.reader import Dataset
from flowprep.store.summary import content_fingerprint
from flowprep.train import checkpoint as checkpoints
from flowprep.train.evaluate import check_videos, evaluate
from flowprep.train.experiment.needs import WEIGHTS, check_free, check_stacks
from flowprep.train.experiment.recipes import OTHER, PRE_TRAINED, Recipe, Run
from flowprep.train.fusion import LEARNED, fuse
from flowprep.train.inputs import channels_of, test_loader
from flowprep.train.learned_from import identity, learned_from
from flowprep.train.loop import train
from flowprep.train.paper import NAMES
from flowprep.train.run_folder import changed_keys
from flowprep.train.schedule import schedule_of
from flowprep.train.scores import TEST, TRAIN, Scores
from flowprep.wording import plural

TRAINED = "trained"  # state of a run


class Laboratory:
    """Makes runs, and keeps what comes of them.

    Parameters
    ----------
    training: the section ``train`` of a pipeline file; of the keys that rows set, those of the rows count.
    experiment: the section ``experiment``.
    where: the file, for errors.
    over: keys of the section ``train`` that are put over those of the file.
    say: is told what makes numbers mean less; and, unless ``quiet``, of progress.

    Raises UsageError where ``over`` has a key that rows set, for keys and values that there are not, and where no
    folder is named.
    """

    def __init__(
        self,
        training: dict[str, Any],
        experiment: ExperimentConfig,
        where: str,
        over: dict[str, Any],
        say: Callable[[str], None],
        *,
        quiet: bool = False,
    ) -> None:
        check_free(over)
        for stream in STREAMS:  # a mistake is one here, not one in each row
            stream_config(training, stream, where, _over(over, stream))
        if not (experiment.output or training.get("output")):
            raise UsageError(f"{where}: no folder for the runs: give experiment.output.")
        self.experiment = experiment
        self.progress = (lambda _: None) if quiet else say
        self._say, self._quiet = say, quiet
        self._training, self._over, self._where = training, over, where
        self._configs: dict[Run, StreamConfig] = {}
        self._datasets: dict[str, Dataset] = {}
        self._fingerprints: dict[str, str] = {}
        self._trained: set[Run] = set()
        self._failed: dict[Run, str] = {}  # and why
        self._states: dict[Run, str] = {}
        self._lessons: dict[Run, tuple[set[str], list[str]]] = {}

    # --- what a run is made of ---

    def config(self, run: Run) -> StreamConfig:
        """All that is configured of ``run``."""
        if run not in self._configs:
            self._configs[run] = self._config(run)
        return self._configs[run]

    def path(self, dataset: str) -> str:
        """Of the dataset that stands for one of the paper's; "" where none does."""
        path: str = getattr(self.experiment, dataset)
        return path

    def dataset(self, path: str) -> Dataset:
        """The dataset at ``path``, opened once."""
        if path not in self._datasets:
            self._datasets[path] = Dataset(path)
        return self._datasets[path]

    def folder(self, run: Run) -> Path:
        return Path(self.experiment.output or self._training.get("output") or "", run.name)

    def checkpoint(self, run: Run) -> Path:
        return self.folder(run) / checkpoints.NAME

    def why_not(self, run: Run) -> str:
        """Why ``run`` cannot be made with what the pipeline file names, or was not; "" if it can."""
        try:
            self._check(run)
        except (UsageError, RefusedError) as error:
            return str(error)
        return self._failed.get(run, "")

    # --- what comes of it ---

    def scores(self, recipe: Recipe) -> Scores:
        """Of the test videos, in the split of ``recipe``; what has to be trained and evaluated for them is.

        Raises UsageError and RefusedError where that fails, UnfinishedError where a signal asks for the end.
        """
        for run in recipe.runs:
            self._check_test(run)
        streams = [self._scores(run, TEST) for run in recipe.runs]
        if not recipe.method:
            return streams[0]
        training = [self._scores(run, TRAIN) for run in recipe.runs] if recipe.method in LEARNED else []
        kept = self.kept(recipe)
        if kept is None:
            self.progress(f"fusing {' and '.join(run.name for run in recipe.runs)}: {recipe.method}")
            kept = fuse(streams, recipe.method, training=training, say=self._say, quiet=self._quiet)
            kept.save(self._fused(recipe))
        return kept

    def kept(self, recipe: Recipe) -> Scores | None:
        """The scores of ``recipe``, if they are there and still hold."""
        parts = (TEST, TRAIN) if recipe.method in LEARNED else (TEST,)
        sources = [self._kept(run, part) for run in recipe.runs for part in parts]
        if not recipe.method or any(scores is None for scores in sources):
            return sources[0] if not recipe.method else None
        files = [self.file(run, part) for run in recipe.runs for part in parts]
        return _newer(self._fused(recipe), files)

    def warnings(self, recipe: Recipe, scores: Scores) -> list[str]:
        """What makes ``scores``, those of ``recipe``, mean less than they seem to. Raises RefusedError."""
        found: dict[str, None] = {}
        for run in recipe.runs:
            dataset = self.dataset(self._path_of(run))
            learned, unknown = self._learned_from(run)
            found |= dict.fromkeys(unknown)
            if known := sum(identity(dataset.videos[id]) in learned for id in scores.ids):
                found[f"{known:,} of {plural(len(scores), 'test video')} were trained on: this is no test"] = None
            if left := dataset.unfinished_shards:
                found[f"{dataset.path} is not complete, still to be extracted: {plural(left, 'shard')}"] = None
        return list(found)

    def file(self, run: Run, part: str) -> Path:
        """Of the scores of ``run``."""
        return self.folder(run) / f"{run.stream}-split{run.split}-{part}.npz"

    def state(self, run: Run) -> str:
        """How far ``run`` was when this was first asked: "trained", "200 of 80,000 iterations", or what is wrong."""
        if run not in self._states:
            try:
                self._states[run] = self._state(run)
            except RefusedError as error:
                self._states[run] = str(error)
        return self._states[run]

    def train(self, run: Run) -> None:
        """Train ``run``, and before it what it begins with; what is trained is left as it is."""
        if run.start:
            self.train(run.start)
        if run in self._trained:
            return
        if self.state(run) != TRAINED:
            self.progress(f"training {run.name}")
        with self._noting(run):
            outcome = train(self.config(run), self._say, quiet=self._quiet)
        if outcome.stopped:
            raise UnfinishedError("stopped after a run had ended; the same command goes on with the next.")
        self._trained.add(run)

    def _config(self, run: Run) -> StreamConfig:
        other = [self.path(OTHER[run.dataset])]
        keys = {
            "dataset": self._path_of(run),
            "data": {
                "also": other if run.joined == "also" else [],
                "added": other if run.joined == "added" else [],
                "leave_out": self.experiment.leave_out if run.joined == "added" else [],
            },
        }
        if run.start or run.regime not in PRE_TRAINED:  # others begin with the weights of the pipeline file
            keys["net"] = {"weights": str(self.checkpoint(run.start)) if run.start else ""}
        over = merged(_over(self._over, run.stream), merged(run.keys(), keys))
        config = stream_config(self._training, run.stream, self._where, over)
        return dataclasses.replace(config, output=str(self.folder(run)))

    def _state(self, run: Run) -> str:
        path = self.checkpoint(run)
        if not path.exists():
            return "not begun"
        checkpoint, config = checkpoints.load(path), self.config(run)
        if changes := changed_keys(checkpoint.config, config):
            return f"a run with other settings: {'; '.join(changes)}"
        if checkpoint.training is None:
            return TRAINED
        return f"{checkpoint.iteration:,} of {schedule_of(config.solver).iterations:,} iterations"

    def _check_test(self, run: Run) -> None:
        """Raises UsageError or RefusedError where test videos cannot be used: not only after the training."""
        config, dataset = self.config(run), self.dataset(self._path_of(run))
        if config.data.on_damage == "raise":
            loader = test_loader(config, dataset, part=TEST, split=run.split)
            check_videos(loader, dataset, "--set data.on_damage=skip")

    def _scores(self, run: Run, part: str) -> Scores:
        self.train(run)
        if (kept := self._kept(run, part)) is not None:
            return kept
        self.progress(f"evaluating {run.name}, {part} part")
        config = self.config(run)
        with self._noting(run):
            scores = evaluate(
                self.checkpoint(run),
                self.dataset(config.dataset),
                split=run.split,
                part=part,
                frames=self.experiment.frames,
                crops=self.experiment.crops,
                device=config.solver.device,
                workers=config.data.workers,
                on_damage=config.data.on_damage,
                say=self._say,
                quiet=self._quiet,
            )
        scores.save(self.file(run, part))
        return scores

    def _learned_from(self, run: Run) -> tuple[set[str], list[str]]:
        """The videos that ``run`` has learned from, and what is not known of them; looked up once."""
        if run not in self._lessons:
            unknown: list[str] = []
            self._lessons[run] = learned_from(checkpoints.load(self.checkpoint(run)), unknown.append), unknown
        return self._lessons[run]

    @contextmanager
    def _noting(self, run: Run) -> Iterator[None]:
        """What fails here is not tried again for another row."""
        try:
            yield
        except (UsageError, RefusedError) as error:
            self._failed[run] = str(error)
            raise

    def _kept(self, run: Run, part: str) -> Scores | None:
        """Scores in the folder of ``run``, if they are of its checkpoint, and of the dataset as it is."""
        scores = _newer(self.file(run, part), [self.checkpoint(run)])
        if scores is None:
            return None
        own = (str(self.checkpoint(run).absolute()), self._fingerprint(self._path_of(run)))
        tested = (self.experiment.frames, self.experiment.crops)
        there = (scores.checkpoint, scores.fingerprint), (scores.frames, scores.crops)
        return scores if there == (own, tested) else None

    def _fused(self, recipe: Recipe) -> Path:
        temporal = recipe.runs[-1]
        return self.folder(temporal) / f"fused-{recipe.method}-split{temporal.split}-{TEST}.npz"

    def _path_of(self, run: Run) -> str:
        both = run.stacking and run.stacking.bidirectional
        return (self.experiment.bidirectional if both else "") or self.path(run.dataset)

    def _fingerprint(self, path: str) -> str:
        if path not in self._fingerprints:
            self._fingerprints[path] = content_fingerprint(self.dataset(path))
        return self._fingerprints[path]

    def _check(self, run: Run) -> None:
        """Raises UsageError or RefusedError where the pipeline file does not give what ``run`` needs."""
        for name in (run.dataset, OTHER[run.dataset]) if run.joined else (run.dataset,):
            if not self.path(name):
                raise UsageError(f"experiment.{name} names no dataset of {NAMES[name]}")
        config = self.config(run)
        for path in (config.dataset, *config.data.also, *config.data.added):
            check_stacks(self.dataset(path), config)
            channels_of(config, self.dataset(path))
        if run.joined == "added" and not config.data.leave_out:
            raise UsageError("experiment.leave_out names no classes; pipelines/hmdb51.yaml has a list")
        if run.regime in PRE_TRAINED and not run.start:
            if not config.net.weights:
                raise UsageError(f"{WEIGHTS} names no file of weights")
            if not Path(config.net.weights).is_file():
                raise UsageError(f"{WEIGHTS}: there is no file {config.net.weights}")


def _over(over: dict[str, Any], stream: str) -> dict[str, Any]:
    """The keys in ``over`` that count for one stream."""
    shared = {key: value for key, value in over.items() if key not in STREAMS}
    return merged(shared, over.get(stream) or {})


def _newer(file: Path, sources: Sequence[Path]) -> Scores | None:
    """The scores in ``file`` if none of ``sources`` is newer; None where they are, or are not to be read."""
    try:
        written = file.stat().st_mtime_ns
        if any(source.stat().st_mtime_ns > written for source in sources):
            return None
        return Scores.load(file)
    except (FileNotFoundError, RefusedError):
        return None
