"""The numbers in the documentation, measured again: accuracy on ground truth, and how large a motion is still found."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow, opencv
from flowprep.config import METHODS
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import mean_epe
from flowprep.flow.opencv import DIS_PRESETS
from flowprep.synthetic import Motion, render
from tests.test_docs import PRESETS, code, section, tables

SLOW = {"`tvl1`, `backend=opencv`", "`deepflow`"}  # seconds for each sequence: one of them is enough for every day
ACCURACY = tables(section("methods.md", "Accuracy"))[0]
CASES = [
    pytest.param(
        code(row[0]), sequence, float(value), id=f"{'-'.join(code(row[0]))}-{sequence}",
        marks=[pytest.mark.system] if row[0] in SLOW and sequence != "RubberWhale" else [],
    )
    for row in ACCURACY.rows
    for sequence, value in zip(ACCURACY.header[1:], row[1:], strict=True)
]  # fmt: skip


def algorithm(chosen: list[str]) -> flow.FlowAlgorithm:
    """Of a row `method`, `backend=NAME`, `parameter=value`."""
    method, *settings = chosen
    return flow.get(method, **dict(setting.split("=") for setting in settings))


@pytest.mark.parametrize(("chosen", "sequence", "epe"), CASES)
def test_accuracy(data: Path, chosen: list[str], sequence: str, epe: float) -> None:
    cv2 = opencv.load()
    folder = data / "middlebury" / sequence
    images = [cv2.imread(str(folder / f"frame{number}.png")) for number in (10, 11)]
    frames = np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images])
    field = algorithm(chosen).flow(frames)[0]
    assert mean_epe(field, read_flo(folder / "flow10.flo")) == pytest.approx(epe, abs=0.01)


def test_the_accuracy_of_every_backend_and_preset_is_there() -> None:
    shown = []
    for row in ACCURACY.rows:
        chosen = algorithm(code(row[0]))
        shown.append((chosen.method, chosen.backend, chosen.parameters.to_json()))
    presets: dict[tuple[str, str], Iterable[str]] = {**PRESETS, ("dis", "opencv"): DIS_PRESETS}
    for method in METHODS:
        for backend in flow.BACKENDS[method]:
            if flow.find(method, backend, elsewhere=True).gpu:  # measured where there is one
                continue
            for settings in [{"preset": preset} for preset in presets.get((method, backend), ())] or [{}]:
                expected = flow.get(method, backend, **settings).parameters.to_json()
                assert (method, backend, expected) in shown, f"{method} on {backend}, {settings}"


LARGE_MOTION = tables(section("methods.md", "Large motion"))[0]


@cache
def shifted(shift: int) -> list[NDArray[np.uint8]]:
    """Pairs (2, 240, 320) of five textures that move to the right by ``shift`` px."""
    motion = Motion("right", velocity=(float(shift), 0.0))
    return [render(motion, seed=seed, frames=2, height=240, width=320).frames[..., 1] for seed in range(5)]


@pytest.mark.parametrize("row", LARGE_MOTION.rows, ids=lambda row: row[0].replace("`", ""))
def test_large_motion(row: list[str]) -> None:
    chosen, largest = algorithm(code(row[0])), int(row[1])

    def found(shift: int) -> bool:
        medians = (np.median(chosen.flow(pair)[0, 0, 8:-8, 8 : -8 - shift]) for pair in shifted(shift))
        return all(abs(median - shift) < 0.5 for median in medians)

    assert found(largest)
    assert not found(largest + 5)
