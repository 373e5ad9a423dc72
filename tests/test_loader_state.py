"""A state is taken up again by the same loader only."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowprep.config import Stacking
from flowprep.errors import RefusedError, UsageError
from flowprep.stacks import Augmentation, StackLoader
from flowprep.store.reader import Dataset, VideoTable
from tests.loader_data import CROP, STACKING, flow_dataset


def loader_of(dataset: Dataset | None = None, stacking: Stacking | None = STACKING, **options: Any) -> StackLoader:
    settings: dict[str, Any] = {"batch_size": 2, "batches": 4, "augmentation": Augmentation(CROP)}
    return StackLoader(dataset or flow_dataset(), stacking, **(settings | options))


def smaller() -> Dataset:
    """The same dataset with one video less."""
    dataset = flow_dataset()
    dataset.videos = VideoTable([row for row in dataset.videos if row.label != "alone"])
    return dataset


def test_a_state_survives_json() -> None:
    loader = loader_of()
    for batch in loader:
        if batch.position == (0, 2):
            break
    other = loader_of(workers=1)
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert next(iter(other)).position == (0, 3)


def test_after_a_break_the_next_iteration_goes_on() -> None:
    loader = loader_of()
    for _ in loader:
        break
    assert [batch.position for batch in loader] == [(0, 1), (0, 2), (0, 3)]
    assert [batch.position[0] for batch in loader] == [1] * 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: loader_of(seed=1), "seed is 1 here, and was 0 when the state was taken"),
        (lambda: loader_of(batch_size=3), "batch_size is 3 here, and was 2"),
        (lambda: loader_of(batches=5), "batches is 5 here, and was 4"),
        (lambda: loader_of(stacking=replace(STACKING, kind="trajectory")), "inputs is .*trajectory.*and was .*flow"),
        (lambda: loader_of(stacking=None, frames=True), "inputs is RGB frames here"),
        (lambda: loader_of(smaller()), "the dataset has other videos than when the state was taken"),
        (lambda: loader_of(split=2, part="test", stacking=replace(STACKING, length=2)), "inputs is"),
    ],
)
def test_other_batches_are_refused(make: Callable[[], StackLoader], message: str) -> None:
    state = loader_of().state_dict()
    with pytest.raises(RefusedError, match=message):
        make().load_state_dict(state)


def test_what_is_no_state() -> None:
    loader = loader_of()
    with pytest.raises(UsageError, match="without seed, batch_size, batches, inputs, videos: give what state_dict"):
        loader.load_state_dict({"epoch": 3, "batch": 0})
    for wrong in ({"batch": 4}, {"batch": -1}, {"epoch": -1}):
        with pytest.raises(UsageError, match="an epoch has the batches 0 to 3"):
            loader.load_state_dict(loader.state_dict() | wrong)
