"""The settings of a dataset: a fingerprint for all that shapes bytes, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowprep.config import FlowConfig, RunConfig, Settings, SourceConfig, StorageConfig, VideoConfig, fingerprint
from flowprep.errors import UsageError

SETTINGS = Settings(
    VideoConfig(), FlowConfig("tvl1", "opencv", "forward", {"warps": 5, "tau": 0.25}), StorageConfig(), "opencv 5.0.0"
)
LIMITS = {"max_pixels": 10_000, "max_frames": 5}  # turn videos away, but shape no number of those that stay
CHANGED = {
    "video": {"resize": "340x256", "short_side": 256, "stride": 2, "fps": 12.0},
    "flow": {"method": "dis", "backend": "other", "direction": "both", "parameters": {"warps": 6, "tau": 0.25}},
    "storage": {"range": "fixed", "bound": 32.0, "rounding": "trunc", "quality": 80, "rgb": False}
    | {"rgb_short_side": 128, "rgb_quality": 80, "codec": "htj2k", "level": 0.002, "bits": 8, "step": 0.125},
}
NEEDS = {  # keys that count beside others only
    "bound": StorageConfig(range="fixed"),
    "rounding": StorageConfig(range="fixed"),
    "level": StorageConfig(codec="htj2k"),
    "bits": StorageConfig(codec="blosc"),
    "step": StorageConfig(codec="blosc"),
}


def test_every_key_is_tried_below() -> None:
    for section, changes in CHANGED.items():
        known = {item.name for item in dataclasses.fields(getattr(SETTINGS, section))}
        assert known - changes.keys() == (LIMITS.keys() if section == "video" else set())


@pytest.mark.parametrize(("section", "key"), [(section, key) for section, part in CHANGED.items() for key in part])
def test_it_changes_with_every_key_that_shapes_bytes(section: str, key: str) -> None:
    base = dataclasses.replace(SETTINGS, storage=NEEDS.get(key, SETTINGS.storage))
    part = dataclasses.replace(getattr(base, section), **{key: CHANGED[section][key]})
    changed = dataclasses.replace(base, **{section: part})
    assert changed.fingerprint() != base.fingerprint()
    differences = base.differences(changed)
    if key not in ("codec", "bits"):  # with which other keys begin to count, and others end
        assert len(differences) == 1
    assert any(re.fullmatch(rf"{section}\.{key}(\.warps)?: .* -> .*", difference) for difference in differences)


def test_limits_have_no_part_in_it() -> None:
    for key, value in LIMITS.items():
        changed = dataclasses.replace(SETTINGS, video=VideoConfig(**{key: value}))
        assert changed.fingerprint() == SETTINGS.fingerprint() and SETTINGS.differences(changed) == []


def test_it_changes_with_the_engine() -> None:
    newer = dataclasses.replace(SETTINGS, engine="opencv 5.0.1")
    assert newer.fingerprint() != SETTINGS.fingerprint()
    assert SETTINGS.differences(newer) == ["engine: opencv 5.0.0 -> opencv 5.0.1"]


def test_differences_name_both_values() -> None:
    changed = dataclasses.replace(
        SETTINGS,
        flow=dataclasses.replace(SETTINGS.flow, parameters={"warps": 10, "theta": 0.3}),
        storage=StorageConfig(rgb=False),
    )
    assert SETTINGS.differences(changed) == [
        "flow.parameters.tau: 0.25 -> unset",
        "flow.parameters.theta: unset -> 0.3",
        "flow.parameters.warps: 5 -> 10",
        "storage.rgb: True -> False",
    ]
    assert SETTINGS.differences(SETTINGS) == []


def test_source_and_run_have_no_part_in_it() -> None:
    names = {name for part in SETTINGS.to_json().values() if isinstance(part, dict) for name in part}
    assert not names & {item.name for part in (SourceConfig, RunConfig) for item in dataclasses.fields(part)}


def test_it_is_the_same_in_every_process_and_order_of_keys() -> None:
    tree = json.loads(json.dumps(SETTINGS.to_json()))
    mixed = {
        name: dict(reversed(part.items())) if isinstance(part, dict) else part for name, part in reversed(tree.items())
    }
    assert Settings.from_json(mixed).fingerprint() == SETTINGS.fingerprint()
    code = (
        "import sys, json\nfrom flowprep.config import Settings\n"
        "print(Settings.from_json(json.load(sys.stdin)).fingerprint())"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(tree),
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == SETTINGS.fingerprint()


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
json_trees = st.dictionaries(st.text(max_size=5), leaves | st.lists(leaves, max_size=3), max_size=5)


@given(json_trees)
def test_fingerprints_survive_json(tree: dict[str, Any]) -> None:
    shuffled = json.loads(json.dumps(dict(reversed(tree.items()))))
    assert fingerprint(shuffled) == fingerprint(tree)


@pytest.mark.parametrize(
    "change",
    [
        {"video": {"stride": "2"}},
        {"video": {"strde": 2}},
        {"flow": {"parameters": {"x": [1]}}},
        {"storage": {"bound": -1}},
        {"storage": [1]},
        {"engine": [1]},
    ],
)
def test_settings_from_elsewhere_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="settings: "):
        Settings.from_json({**SETTINGS.to_json(), **change})
