"""One table of the two-stream paper: each row as it comes out here, beside the paper's number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowprep.config import StreamConfig
from flowprep.errors import FlowprepError, RefusedError, UsageError
from flowprep.train.experiment.laboratory import TRAINED, Laboratory
from flowprep.train.experiment.needs import FIXED
from flowprep.train.experiment.recipes import OTHER, Recipe, Run, recipe
from flowprep.train.paper import CLASSES, NAMES, RESULTS, TEST_VIDEOS, Result
from flowprep.train.run_folder import FREE
from flowprep.train.scores import TEST, Scores
from flowprep.wording import plural

# Keys that may be otherwise than in the paper without a word: they hardly change what comes out.
ASIDE = {"solver.seed", "solver.precision", "solver.compile", "data.on_damage"}
FLOW = "brox"  # the method of the paper, in another implementation


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    number: int  # in the table, from 1
    result: Result
    data: str  # which videos, in words
    splits: tuple[int, ...]
    recipes: tuple[Recipe, ...]  # one for each split; none for a method that is not made here
    otherwise: str = ""  # why the paper's number is of other videos
    accuracies: tuple[float, ...] = ()  # shares in [0, 1], one for each split, if it was made
    warnings: tuple[str, ...] = ()  # what makes these mean less than they seem to
    why_not: str = ""  # if it was not
    failed: bool = False  # because something went wrong on the way

    @property
    def runs(self) -> list[Run]:
        """In the order in which they are made."""
        runs = [run for recipe in self.recipes for run in recipe.runs]
        return list(dict.fromkeys(each for run in runs for each in ((run.start,) if run.start else ()) + (run,)))

    @property
    def accuracy(self) -> float | None:
        """Mean over the splits."""
        return sum(self.accuracies) / len(self.accuracies) if self.accuracies else None


def lines_of(table: str, laboratory: Laboratory, splits: Sequence[int] = (), rows: Sequence[int] = ()) -> list[Line]:
    """The rows of a table before anything is made; ``splits`` and ``rows``, by number, default to the paper's and all.

    Raises UsageError for a number that is no row's.
    """
    results = [result for result in RESULTS if result.table == table]
    if wrong := sorted(set(rows) - set(range(1, len(results) + 1))):
        raise UsageError(f"--rows {wrong[0]}: table {table} has the rows 1 to {len(results)}.")
    return [
        _line(number, result, laboratory, tuple(splits) or result.splits)
        for number, result in enumerate(results, 1)
        if not rows or number in rows
    ]


def made(line: Line, laboratory: Laboratory) -> Line:
    """``line`` with its accuracies, or with the reason why there are none; trains and evaluates what it takes.

    Raises UnfinishedError and StoreError; other errors are the reason.
    """
    if line.why_not or not line.recipes:
        return line
    if reason := _why_not(line, laboratory):  # what another row has failed with
        return replace(line, why_not=reason)
    try:
        line = _measured(line, [laboratory.scores(recipe) for recipe in line.recipes], laboratory)
    except (UsageError, RefusedError) as error:
        line = replace(line, why_not=str(error), failed=True)
    laboratory.progress(f"row {line.number}, {line.result.row}: {line.why_not or f'{line.accuracy:.1%}'}")
    return line


def kept(line: Line, laboratory: Laboratory) -> Line:
    """``line`` with its accuracies, if all that it takes has been made before."""
    if line.why_not or any(laboratory.state(run) != TRAINED for run in line.runs):
        return line
    scores = [laboratory.kept(recipe) for recipe in line.recipes]
    found = [one for one in scores if one is not None]
    return _measured(line, found, laboratory) if found and len(found) == len(scores) else line


def otherwise(lines: Sequence[Line], laboratory: Laboratory) -> list[str]:
    """What is not as in the paper in all that the rows are made of."""
    runs = [run for run in dict.fromkeys(run for line in lines for run in line.runs) if not laboratory.why_not(run)]
    notes: dict[str, None] = {}
    for run in runs:
        config = laboratory.config(run)
        notes |= dict.fromkeys(_changes(config))
        method = laboratory.dataset(config.dataset).settings.flow.method
        if run.stream == "temporal" and method != FLOW:
            notes[f"flow by {method}, not by {FLOW}"] = None
    frames, crops = laboratory.experiment.frames, laboratory.experiment.crops
    if runs and (frames, crops) != (25, 10):
        notes[f"{plural(frames, 'frame')} of a video, {plural(crops, 'crop')} of each"] = None
    return list(notes)


def _measured(line: Line, scores: Sequence[Scores], laboratory: Laboratory) -> Line:
    """``line`` with the accuracies of its splits, what makes them mean less than they seem to, and a word where they
    are of too few videos for a comparison.
    """
    warnings = [laboratory.warnings(recipe, one) for recipe, one in zip(line.recipes, scores, strict=True)]
    line = replace(
        line,
        accuracies=tuple(one.accuracy for one in scores),
        warnings=tuple(dict.fromkeys(warning for of_split in warnings for warning in of_split)),
    )
    for one in scores:
        expected = TEST_VIDEOS[line.result.dataset][one.split]
        if not line.otherwise and len(one) != expected:
            return replace(line, otherwise=f"of split {one.split}, {len(one):,} of {expected:,} videos have scores")
    return line


def _changes(config: StreamConfig) -> Iterator[str]:
    """Keys that shape numbers and are neither the paper's, which are the defaults, nor those of a row."""
    usual = StreamConfig()
    for section in ("data", "stack", "net", "solver"):
        for key, value in vars(getattr(config, section)).items():
            name = f"{section}.{key}"
            if (
                key not in FIXED[section]
                and name not in FREE | ASIDE
                and value != getattr(getattr(usual, section), key)
            ):
                yield f"{name} {value}"


def _line(number: int, result: Result, laboratory: Laboratory, splits: tuple[int, ...]) -> Line:
    path = laboratory.path(result.dataset)
    name = Path(path).stem if path else NAMES[result.dataset]
    data = f"{name}, split{'s' * (len(splits) > 1)} {', '.join(map(str, splits))}"
    recipes = tuple(found for split in splits if (found := recipe(result, split)))
    line = Line(number, result, data, splits, recipes)
    reason = _why_not(line, laboratory) if recipes else "another method than the paper's two streams"
    return replace(line, why_not=reason, otherwise=_other_videos(line, laboratory))


def _why_not(line: Line, laboratory: Laboratory) -> str:
    return next((reason for run in line.runs if (reason := laboratory.why_not(run))), "")


def _other_videos(line: Line, laboratory: Laboratory) -> str:
    """Why what is measured here is not what the paper has measured; "" if it is, or nothing is there to measure."""
    if line.splits != line.result.splits:
        several = len(line.result.splits) > 1
        return "the paper's number is " + ("the mean over three splits" if several else "of split 1")
    return next(_differences(line, laboratory), "")


def _differences(line: Line, laboratory: Laboratory) -> Iterator[str]:
    """Of the datasets that a row is made of, what they have not as the paper's."""
    for key in dict.fromkeys(
        [line.result.dataset, *(OTHER[run.dataset] for run in line.runs if run.joined or run.start)]
    ):
        try:
            dataset = laboratory.dataset(laboratory.path(key))
        except FlowprepError:
            continue
        labels = {row.label for row in dataset.videos} - {""}
        if len(labels) != CLASSES[key]:
            yield f"{dataset.path} has {len(labels):,} classes, {NAMES[key]} {CLASSES[key]}"
        for split in line.splits:
            videos = sum(row.splits[split - 1] == TEST for row in dataset.videos)
            if videos != TEST_VIDEOS[key][split]:
                yield (
                    f"split {split} of {dataset.path} has {plural(videos, 'test video')}, "
                    f"that of {NAMES[key]} {TEST_VIDEOS[key][split]:,}"
                )
