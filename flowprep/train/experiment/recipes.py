"""What each row of the two-stream paper's tables takes: which networks are trained, on what, and how they are fused.

    table 1a    spatial network, from scratch or from given weights, dropout 0.5 or 0.9
    table 1b    temporal network from scratch, by what is stacked
    table 2     temporal network on HMDB-51, by what it learns from UCF-101
    table 3, 4  both networks, fused

All follows from what :mod:`flowprep.train.paper` says of a row. Networks that several rows have are trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowprep.config import Stacking
from flowprep.train.paper import Result

OTHER = {"ucf101": "hmdb51", "hmdb51": "ucf101"}  # the dataset that the multi-task network of each learns from, too
PRE_TRAINED = ("fine-tune", "last-layer")  # regimes that begin with given weights
# Of the spatial network in tables 3 and 4; the paper gives no ratio there, but its accuracy is that of 0.5 in table 1a.
LAST_LAYER_DROPOUT = 0.5


@dataclass(frozen=True)
class Run:
    """One network to train."""

    stream: str
    dataset: str  # "ucf101" or "hmdb51"
    split: int  # 0: all videos of the dataset
    regime: str
    dropout: float
    stacking: Stacking | None = None  # of the temporal network
    joined: str = ""  # how the other dataset takes part: "also", a further task; "added", further classes; or not
    start: Run | None = None  # whose weights it begins with

    @property
    def name(self) -> str:
        """``"ucf101-temporal-flow10-split1"``: of its folder; two networks have two names."""
        parts = [self.dataset, self.stream]
        if self.stacking:
            parts.append(f"{self.stacking.kind}{self.stacking.length}")
            parts += ["bidirectional"] * self.stacking.bidirectional
            parts += ["with-means"] * (not self.stacking.mean_subtract)
            parts += [f"{self.joined}-{OTHER[self.dataset]}"] * bool(self.joined)
        if self.start:
            parts.append(f"from-{self.start.dataset}")
        if self.stream == "spatial":
            parts += [self.regime, f"dropout{self.dropout:g}"]
        return "-".join([*parts, f"split{self.split}" if self.split else "whole"])

    def keys(self) -> dict[str, Any]:
        """The keys of the section ``train`` that make it this run, but for paths."""
        keys: dict[str, Any] = {
            "data": {"split": self.split or 1, "whole": not self.split},
            "net": {"dropout": self.dropout},
            "solver": {"regime": self.regime},
        }
        if self.stacking:
            names = ("kind", "length", "bidirectional", "mean_subtract")
            keys["stack"] = {name: getattr(self.stacking, name) for name in names}
        return keys


@dataclass(frozen=True)
class Recipe:
    """What gives the number of one row in one split."""

    runs: tuple[Run, ...]  # one network, or the spatial and the temporal one
    method: str = ""  # of fusion


def recipe(result: Result, split: int) -> Recipe | None:
    """How to get the ``result`` of the paper in a split; None for other methods than its two streams."""
    setting = result.setting
    if result.stream == "spatial":
        return Recipe((_spatial(result.dataset, split, setting["regime"], setting.get("dropout", LAST_LAYER_DROPOUT)),))
    if result.stream == "temporal":
        return Recipe((_temporal(result.dataset, split, setting),))
    if result.stream == "fused":
        spatial = _spatial(result.dataset, split, setting["spatial"], LAST_LAYER_DROPOUT)
        return Recipe((spatial, _temporal(result.dataset, split, setting)), setting["method"])
    return None


def _spatial(dataset: str, split: int, regime: str, dropout: float) -> Run:
    return Run("spatial", dataset, split, regime, dropout)


def _temporal(dataset: str, split: int, setting: Mapping[str, Any]) -> Run:
    stacking = Stacking(**{name: setting[name] for name in ("kind", "length", "bidirectional", "mean_subtract")})
    regime = setting.get("regime", "scratch")
    run = Run("temporal", dataset, split, regime, setting["dropout"], stacking)
    if setting["tasks"] == "one" and regime == "scratch":
        return run
    if setting["tasks"] == "one":  # what it begins with has learned from all videos of the other dataset
        start = dataclasses.replace(run, dataset=OTHER[dataset], split=0, regime="scratch")
        return dataclasses.replace(run, start=start)
    return dataclasses.replace(run, joined={"multi-task": "also", "added classes": "added"}[setting["tasks"]])
