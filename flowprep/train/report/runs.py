"""What is known of the training behind scores: its settings, versions, learning curves and first layer.

Nothing here is needed for a report. What is missing or damaged is left out, with a sentence that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.errors import FlowprepError
from flowprep.train.log import LOG, read_log
from flowprep.train.report.comparison import setting_of
from flowprep.train.report.pictures import RGB
from flowprep.train.report.tables import Row

LARGEST = 1e300  # of the numbers in a log: there is room to calculate; nan and infinity are not below it
POINTS = 400  # of a curve: more cannot be told apart on a page
CURVES = {  # what is drawn -> the keys in the log, by the name of the line
    "loss": {"training": "loss", "validation": "validation_loss"},
    "accuracy": {"training": "accuracy", "validation": "validation_accuracy"},
    "learning rate": {"training": "learning_rate"},
}


@dataclass
class Run:
    """One checkpoint that scores were made with. ``notes`` are sentences on what is missing."""

    checkpoint: str
    of: list[str]  # "temporal, split 1": the scores
    notes: list[str] = field(default_factory=list)
    iteration: int | None = None
    settings: dict[str, str] = field(default_factory=dict)  # configuration of the training, and of its data
    versions: dict[str, str] = field(default_factory=dict)
    setting: dict[str, Any] = field(default_factory=dict)  # to compare with the paper
    curves: list[dict[str, Any]] = field(default_factory=list)
    first_layer: NDArray[np.float32] | None = None  # (filters, channels, k, k)

    def to_json(self) -> dict[str, Any]:
        names = ("checkpoint", "of", "notes", "iteration", "settings", "versions", "curves")
        colour = self.first_layer is not None and self.first_layer.shape[1] == RGB
        return {name: getattr(self, name) for name in names} | {"colour": colour}


def runs_of(rows: Sequence[Row]) -> list[Run]:
    """The checkpoints that the scores name, each once."""
    scores = [(row, item) for row in rows for item in row.by_split.values() if item.checkpoint]
    runs: dict[str, Run] = {}
    for row, item in scores:
        runs.setdefault(item.checkpoint, Run(item.checkpoint, [])).of.append(f"{row.name}, split {item.split}")
    for run in runs.values():
        _read_checkpoint(run)
        _read_log(run)
    return list(runs.values())


def settings_of(rows: Sequence[Row], runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """By name of a row: the setting of its checkpoints; left out where they differ or one is not known."""
    by_path = {run.checkpoint: run.setting for run in runs}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        settings = [by_path.get(item.checkpoint, {}) for item in row.by_split.values()]
        if settings[0] and all(setting == settings[0] for setting in settings):
            found[row.name] = settings[0]
    return found


def _read_checkpoint(run: Run) -> None:
    try:
        from flowprep.train.checkpoint import load

        checkpoint = load(Path(run.checkpoint))
    except ImportError as error:  # scores can be reported where torch is not installed
        run.notes.append(f"The checkpoint was not read ({error}): in flowprep's folder, pip install '.[train]'.")
        return
    except (FlowprepError, OSError, ValueError) as error:  # ValueError: a name that no file can have
        run.notes.append(f"The checkpoint cannot be read, so there are no settings and filters: {error}")
        return
    run.iteration = checkpoint.iteration
    run.settings = flat(checkpoint.config.to_json()) | flat(checkpoint.settings, "dataset.")
    run.versions = {name: str(version) for name, version in checkpoint.versions.items()}
    run.setting = setting_of(checkpoint.config, checkpoint.settings.get("stack"))
    # Tensors of a state dict are in the order of the layers.
    kernels = next((tensor for tensor in checkpoint.model.values() if tensor.ndim == 4), None)
    if kernels is None or kernels.shape[1] != checkpoint.channels:
        run.notes.append("The checkpoint has no first convolution for its input, so there are no filters.")
    else:
        run.first_layer = kernels.float().numpy()


def _read_log(run: Run) -> None:
    checkpoint = Path(run.checkpoint)
    try:
        path = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / LOG
        entries = [entry for entry in read_log(path) if 0 <= entry["iteration"] < LARGEST]
        with path.open("rb") as file:
            written = sum(1 for line in file if line.strip())
    except (FlowprepError, OSError, ValueError) as error:
        run.notes.append(f"There are no learning curves: the log of {checkpoint} cannot be read ({error}).")
        return
    if damaged := written - len(entries):
        run.notes.append(f"{path}: {damaged:,} of its lines are no entries of a log; they are left out of the curves.")
    run.curves = curves_of(entries)
    if not run.curves:
        run.notes.append(f"There are no learning curves: {path} has no entries.")


def curves_of(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Curves with at least one point: title, and lines of (iteration, value); each of several tasks gets a line."""
    tasks = {name: value for entry in entries for name, value in _losses(entry).items()}
    curves = []
    for title, keys in CURVES.items():
        found = {name: [(entry["iteration"], entry.get(key)) for entry in entries] for name, key in keys.items()}
        if title == "loss" and len(tasks) > 1:
            found |= {name: [(entry["iteration"], _losses(entry).get(name)) for entry in entries] for name in tasks}
        lines = [{"name": name, "points": _thinned(points)} for name, points in found.items()]
        if lines := [line for line in lines if line["points"]]:
            curves.append({"title": title, "lines": lines})
    return curves


def _losses(entry: Mapping[str, Any]) -> dict[str, Any]:
    losses = entry.get("losses")
    return losses if isinstance(losses, dict) else {}


def _thinned(points: Sequence[tuple[float, Any]]) -> list[list[float]]:
    """Points in order, without those that are no numbers; of many, the means of neighbours."""
    known = sorted([x, y] for x, y in points if _is_number(y))
    if len(known) <= POINTS:
        return known
    return [[part[-1, 0], part[:, 1].mean()] for part in np.array_split(np.array(known), POINTS)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of settings as ``{"solver.batch": "256"}``; empty values are left out."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value not in ("", [], (), None):
            found[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return found
