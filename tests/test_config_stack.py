"""The section ``stack``: every key typed and ranged, what excludes what, and what of it names a dataset."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowprep.config import (
    FlowConfig,
    Settings,
    StackConfig,
    Stacking,
    StackingConfig,
    StorageConfig,
    TranscodeConfig,
    VideoConfig,
    build,
    read_pipeline,
)
from flowprep.errors import UsageError

KEYS = {item.name: typing.get_type_hints(StackConfig)[item.name] for item in dataclasses.fields(StackConfig)}

# Of each key: good values, bad ones, what the error says of these, and other keys that it needs.
VALUES: dict[str, tuple[list[Any], list[Any], str, dict[str, Any]]] = {
    "kind": (["flow", "trajectory"], ["", "eq1", "Flow"], "stack.kind: no such value", {}),
    "length": ([1, 10, 32], [0, -1, 33], "stack.length .*: give 1 to 32 fields", {}),
    "temporal_stride": ([1, 100], [0, -1, 101], "stack.temporal_stride .*: give 1 .every field. to 100", {}),
    "bidirectional": ([True, False], [], "", {}),
    "mean_subtract": ([True, False], [], "", {}),
    "anchor": (["start", "centre"], ["", "center", "end"], "stack.anchor: no such value", {}),
    "short": (["refuse", "repeat-last"], ["", "repeat"], "stack.short: no such value", {}),
    "every": ([0, 1, 10**9], [-1, 10**9 + 1], "--every .*: give 1 to 1000000000", {}),
    "per_video": ([0, 1, 10**9], [-1, 10**9 + 1], "--per-video .*: give 1 to 1000000000", {}),
    "backward": (["", "stored", "frames"], ["rgb"], "stack.backward: no such value", {"bidirectional": True}),
    "size": (["", "16x16", "224x160"], ["15x16", "224", "224X224", "-1x16"], "--size .*: give", {}),
}


def stack(**keys: Any) -> StackConfig:
    """The section with these keys, as a pipeline file gives it."""
    return build({"stack": keys}, "x.yaml", StackingConfig).stack


def test_every_key_is_tried_here() -> None:
    assert VALUES.keys() == KEYS.keys()
    assert all(good for good, *_ in VALUES.values())


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_its_default(key: str) -> None:
    default = getattr(StackConfig(), key)
    trees: list[dict[str, Any]] = [
        {},
        {"stack": None},
        {"stack": {}},
        {"stack": {key: None}},
        {"stack": {key: default}},
    ]
    for tree in trees:
        assert build(tree, "x.yaml", StackingConfig) == StackingConfig()
    assert isinstance(default, KEYS[key])


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_range(key: str) -> None:
    good, bad, words, others = VALUES[key]
    for value in good:
        assert getattr(stack(**others, **{key: value}), key) == value
    for value in bad:
        with pytest.raises(UsageError, match=f"^x.yaml: {words}"):
            stack(**others, **{key: value})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_a_type(key: str) -> None:
    wrong: dict[type, list[Any]] = {
        str: [True, ["flow"], {"flow": 1}],
        int: ["5", 2.5, True, math.nan, [1], {}],
        bool: [0, 1, "yes", "true", []],
    }
    for value in wrong[KEYS[key]]:
        with pytest.raises(UsageError, match=rf"^x.yaml: stack.{key}: .* is not (text|a whole number|true or false)"):
            stack(**{key: value})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bidirectional": True, "length": 9}, "stack.length 9: half of it is for each direction, so give an even"),
        ({"bidirectional": True, "length": 1}, "stack.length 1: half of it"),
        ({"bidirectional": True, "anchor": "centre"}, "stack.anchor is for stacks of one direction"),
        ({"backward": "stored"}, "--backward stored is for stacks of both directions: add --bidirectional"),
        ({"backward": "frames"}, "--backward frames is for stacks of both directions: add --bidirectional"),
        ({"every": 2, "per_video": 25}, "--every and --per-video exclude each other: give one of them"),
    ],
)
def test_keys_that_exclude_each_other(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^x.yaml: {words}"):
        stack(**keys)


def test_the_size_is_width_by_height() -> None:
    assert stack(size="224x160").target_size() == (224, 160)
    assert stack().target_size() is None


@pytest.mark.parametrize(
    ("kind", "tree", "words"),
    [
        (StackingConfig, {"stakc": {}}, "unknown key stakc. Did you mean 'stack'?"),
        (StackingConfig, {"stack": {"lenght": 5}}, "unknown key stack.lenght. Did you mean 'length'?"),
        (StackingConfig, {"stack": "flow"}, "stack must be a mapping, not 'flow'"),
        (StackingConfig, {"stack": {"stride": 2}}, "unknown key stack.stride"),
        (StackingConfig, {"source": {"path": "videos"}}, "unknown key source"),
        (StackingConfig, {"flow": {"method": "dis"}}, "unknown key flow. Known: dataset, output"),
        (TranscodeConfig, {"stack": {}}, "unknown key stack. Known: dataset, output"),
        (TranscodeConfig, {"dataset": ["a.zarr"]}, "dataset: .'a.zarr'. is not text"),
    ],
)
def test_what_a_pipeline_file_may_hold(kind: type[Any], tree: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^x.yaml: {words}"):
        build(tree, "x.yaml", kind)


def test_a_pipeline_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stack.yaml"
    path.write_text(
        "dataset: a.zarr\noutput: b.zarr\nstack: {kind: trajectory, every: 4}\nrun:\nstorage: {codec: blosc}\n"
    )
    config = build(read_pipeline(path, StackingConfig), str(path), StackingConfig)
    assert config == StackingConfig(
        "a.zarr", "b.zarr", StorageConfig(codec="blosc"), stack=StackConfig("trajectory", every=4)
    )
    path.write_text("stack: {length: 33}\n")
    with pytest.raises(UsageError, match=f"^{path}: stack.length 33: give 1 to 32 fields"):
        read_pipeline(path, StackingConfig)
    path.write_text("- stack\n")
    with pytest.raises(UsageError, match="a pipeline file is a mapping with the keys dataset, output, storage"):
        read_pipeline(path, StackingConfig)


# --- what names a dataset ---

PLAIN = Settings(VideoConfig(), FlowConfig(), StorageConfig(), "engine 1")
STACKS = dataclasses.replace(PLAIN, origins=(StorageConfig(),), stack=StackConfig(bidirectional=True))
CHANGES: dict[str, Callable[[Settings], Settings]] = {
    "no stacks": lambda settings: dataclasses.replace(settings, stack=None),
    "not derived": lambda settings: dataclasses.replace(settings, origins=()),
    "stored twice before": lambda settings: dataclasses.replace(settings, origins=settings.origins * 2),
    "stored in another way before": lambda settings: dataclasses.replace(
        settings, origins=(StorageConfig(codec="htj2k"),)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_dataset_made_from_a_dataset_is_another_one(change: str) -> None:
    assert CHANGES[change](STACKS).fingerprint() != STACKS.fingerprint()
    assert CHANGES[change](STACKS).differences(STACKS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_part_of_the_fingerprint(key: str) -> None:
    chosen = StackConfig(**VALUES[key][3])
    other = next(value for value in VALUES[key][0] if value != getattr(chosen, key))
    base = dataclasses.replace(STACKS, stack=chosen)
    changed = dataclasses.replace(STACKS, stack=dataclasses.replace(chosen, **{key: other}))
    assert changed.fingerprint() != base.fingerprint()
    assert [line.split(":")[0] for line in base.differences(changed)] == [f"stack.{key}"]


@pytest.mark.parametrize("settings", [PLAIN, STACKS, dataclasses.replace(STACKS, stack=None)])
def test_settings_are_read_as_they_were_written(settings: Settings) -> None:
    assert Settings.from_json(settings.to_json()) == settings
    assert ("origins" in settings.to_json()) == settings.derived
    assert settings.to_json().keys() >= PLAIN.to_json().keys()


def test_when_flow_is_computed() -> None:
    frames = dataclasses.replace(STACKS, stack=StackConfig(bidirectional=True, backward="frames"))
    assert [item.computes_flow for item in (PLAIN, STACKS, frames)] == [True, False, True]


def test_a_stacking_has_what_makes_a_stack() -> None:
    """And not where stacks are taken or at what size they are stored, which is the section's own."""
    keys = {item.name for item in dataclasses.fields(Stacking)}
    assert KEYS.keys() - keys == {"every", "per_video", "backward", "size"}
