"""Pipeline files: every key typed and ranged, every mistake named."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowprep.config import (
    ExtractConfig,
    FlowConfig,
    RunConfig,
    VideoConfig,
    build,
    read_pipeline,
)
from flowprep.errors import ExitCode, UsageError, Verdict

SECTIONS = ("source", "video", "flow", "storage", "run")


def keys(*sections: str) -> list[tuple[str, str, Any, Any]]:
    """(section, key, type, default) of every key of a pipeline file."""
    found = []
    for section in sections or SECTIONS:
        cls = typing.get_type_hints(ExtractConfig)[section]
        hints = typing.get_type_hints(cls)
        default = cls()
        for item in dataclasses.fields(cls):
            kind = typing.get_origin(hints[item.name]) or hints[item.name]
            found.append((section, item.name, kind, getattr(default, item.name)))
    return found


named = pytest.mark.parametrize(
    ("section", "key", "kind", "default"), keys(), ids=[f"{section}.{key}" for section, key, _, _ in keys()]
)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[str | bytes], str]:
    """The error that a pipeline file of this content gets; it names the file and has exit code 2."""

    def read(content: str | bytes) -> str:
        path = tmp_path / "pipeline.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UsageError) as error:
            read_pipeline(path)
        assert error.value.exit_code == ExitCode.USAGE
        assert str(error.value).startswith(f"{path}: ")
        return str(error.value).removeprefix(f"{path}: ")

    return read


# --- files ---


def test_a_file_is_read_and_empty_sections_are_defaults(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "source:\n  path: videos\noutput: out.zarr\nvideo:\nflow:\n  method: dis\n  backend:\n"
        "  parameters:\n    preset: fast\nstorage: {}\nrun:\n  max_failed: 3\n  stall_seconds: 60\n"
    )
    tree = read_pipeline(path)
    assert "video" not in tree
    config = build(tree, str(path))
    assert config == ExtractConfig(
        source=dataclasses.replace(ExtractConfig().source, path="videos"),
        output="out.zarr",
        flow=FlowConfig("dis", parameters={"preset": "fast"}),
        run=RunConfig(max_failed="3", stall_seconds=60.0),
    )
    assert isinstance(config.run.stall_seconds, float)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n- b\n", "a pipeline file is a mapping with the keys source, output, video, flow, storage, run."),
        ("", "a pipeline file is a mapping"),
        ("just text", "a pipeline file is a mapping"),
        ("video: [1, 2\n", "not valid YAML: .*line 2"),
        ("video:\n\tstride: 2\n", "not valid YAML: .*line 2"),
        (b"output: caf\xe9.zarr\n", "not valid YAML: .*utf-8"),
        (b"\xff\xfe\x00", "not valid YAML"),
        ("output: 2000-13-45\n", "not valid YAML: month must be in 1..12"),
        ("video: {stride: " + "9" * 5000 + "}\n", "not valid YAML: .*digits"),
        ("[" * 5000, "not valid YAML: "),
        ("output: !!python/object/apply:os.system ['touch pwned']\n", "not valid YAML: .*python/object"),
        ("output: !!python/name:os.system\n", "not valid YAML"),
        ("vidoe: {}\n", "unknown key vidoe. Did you mean 'video'?"),
        ("video:\n  stirde: 2\n", "unknown key video.stirde. Did you mean 'stride'?"),
        ("run:\n  zzz: 2\n", "unknown key run.zzz. Known: workers, max_failed, retry_status"),
        ("3: 4\n", "unknown key 3."),
        ("video: fast\n", "video must be a mapping, not 'fast'"),
        ("source: videos/\n", "source must be a mapping, not 'videos/'"),
        ("flow: {method: tvl2}\n", "flow.method: no such value 'tvl2'. Did you mean 'tvl1'?"),
        ("flow: {direction: up}\n", "flow.direction: no such value 'up'. Known: forward, backward, both."),
        ("flow: {parameters: [warps]}\n", "flow.parameters: ['warps'] is not a mapping."),
        ("flow: {parameters: {warps: [1]}}\n", "--set tvl1.warps: give a number, a word or true or false."),
        ("flow: {parameters: {1: 2}}\n", "--set tvl1.1: give a number"),
        ("video: {stride: 2.5}\n", "video.stride: 2.5 is not a whole number."),
        ("storage: {rgb: 1}\n", "storage.rgb: 1 is not true or false."),
        ("output: [a]\n", "output: ['a'] is not text."),
        ('output: "a\\0b"\n', "output: 'a\\x00b' holds a null byte"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_mistakes_are_named_with_their_file(refused: Callable[[str | bytes], str], content: str, words: str) -> None:
    said = refused(content)
    assert words in said or re.search(words, said), said
    assert not Path("pwned").exists()


def test_a_billion_laughs_exhaust_nothing(refused: Callable[[str | bytes], str]) -> None:
    """Ten references to ten references to ten ...: a few lines that would print as gigabytes."""
    nest = ["  - &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    nest += [f"  - &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 12)]
    for key in ("video:", "output:", "flow:\n method:", "flow:\n parameters:\n  warps:", "run:\n stall_seconds:"):
        assert len(refused("\n".join([key, *nest]))) < 500


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda _: None, r"cannot be read \(No such file"), (Path.mkdir, "not a file"), (os.mkfifo, "not a file")],
    ids=["nothing", "a folder", "a pipe"],
)
def test_files_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "x.yaml")
    with pytest.raises(UsageError, match=f"x.yaml: {words}"):
        read_pipeline(tmp_path / "x.yaml")


# --- keys ---


@named
def test_the_default_of_every_key_is_what_leaving_it_out_gives(section: str, key: str, kind: Any, default: Any) -> None:
    for tree in ({}, {section: None}, {section: {}}, {section: {key: None}}, {section: {key: default}}):
        config = build(tree, "x")
        assert config == ExtractConfig()
        assert isinstance(getattr(getattr(config, section), key), kind)


@pytest.mark.parametrize(("section", "key", "kind"), [item[:3] for item in keys()], ids=str)
def test_every_key_has_a_type(section: str, key: str, kind: Any) -> None:
    wrong: dict[Any, list[Any]] = {
        str: [True, ["x"], {"x": 1}],
        int: ["5", 2.5, True, math.nan, [1], {}],
        float: ["5", True, math.nan, math.inf, -math.inf, 10**400, [1.0]],
        bool: [0, 1, "yes", "true", []],
        dict: ["x", 5, ["x"], True],
    }
    for value in wrong[kind]:
        with pytest.raises(UsageError, match=rf"^x.yaml: {section}.{key}: .* is not (text|a |true)"):
            build({section: {key: value}}, "x.yaml")


RANGES: dict[str, tuple[list[Any], list[Any]]] = {  # good and bad values at the ends of each range
    "video.resize": (
        ["16x16", "340x256", "65500x32750"],
        ["15x16", "16x15", "65501x256", "340x32751", "340", "340X256", "-1x16", "1e3x16", "9" * 20 + "x16", " 340x256"],
    ),
    "video.short_side": ([0, 16, 32_750], [-1, 1, 15, 32_751]),
    "video.stride": ([1, 1000], [0, -1]),
    "video.fps": ([0, 0.5, 12, 1000.0], [-0.1, -1]),
    "video.max_pixels": ([256, 10**10], [255, 0, -1]),
    "video.max_frames": ([2, 10**9], [1, 0, -5, 10**9 + 1]),
    "storage.quality": ([1, 100], [0, -1, 101]),
    "storage.rgb_quality": ([1, 100], [0, -1, 101]),
    "storage.rgb_short_side": ([16, 65_500], [0, 15, 65_501]),
    "run.workers": ([0, 1, 4096], [-1, 4097]),
    "run.stall_seconds": ([0.1, 1e6], [0, -1]),
    "run.grace": ([0, 3600], [-1, 3601]),
    "run.memory_limit": ([1024, 2**32], [0, 1023, 2**32 + 1]),
    "run.max_failed": (
        ["0", 3, "3", "0%", "0.5%", "1%", "99.9%", "100%", "100.0%"],
        ["", "abc", "101%", "100.1%", "-1", -1, "1.5", 0.5, "%", "1%%", " 1", "1e3", "٣", "9" * 5000],
    ),
    "run.retry_status": (
        ["", "crashed", "crashed,timeout", " crashed , timeout ", "missing,"],
        ["ok", "crash", "crashed;timeout", "Crashed"],
    ),
}


@pytest.mark.parametrize("name", RANGES)
def test_every_key_has_a_range(name: str) -> None:
    section, key = name.split(".")
    good, bad = RANGES[name]
    for value in good:
        build({section: {key: value}}, "x.yaml")
    flag = "--" + key.replace("_", "-")
    for value in bad:
        with pytest.raises(UsageError, match=rf"^x.yaml: {flag} ") as error:
            build({section: {key: value}}, "x.yaml")
        assert (
            "give" in str(error.value) or "needs at least" in str(error.value) or "no such verdict" in str(error.value)
        )


BESIDE = {  # numbers that count beside other keys only: those, good values, bad ones, and what the error says
    "bound": ({"range": "fixed"}, [0.01, 20, 100_000], [0, -1, 0.001, 100_001], "give 0.01 to 100000 pixels"),
    "level": ({"codec": "htj2k"}, [1e-5, 0.001, 0.1], [0, -1, 9e-6, 0.11, 1], "give 0.00001 .* to 0.1"),
    "bits": ({"codec": "blosc"}, [8, 16], [0, 1, 12, -16, 32], "give 8 or 16"),
    "step": ({"codec": "blosc"}, [0.001, 0.0625, 10], [0, -1, 0.0009, 10.1], "give 0.001 to 10 pixels"),
}


@pytest.mark.parametrize("key", BESIDE)
def test_numbers_that_count_beside_other_keys_have_a_range(key: str) -> None:
    others, good, bad, words = BESIDE[key]
    for value in good:
        build({"storage": {**others, key: value}}, "x")
    for value in bad:
        with pytest.raises(UsageError, match=f"--{key} .*: {words}"):
            build({"storage": {**others, key: value}}, "x")


def test_no_number_is_without_a_range() -> None:
    numbers = {f"{section}.{key}" for section, key, kind, _ in keys() if kind in (int, float)}
    assert numbers <= RANGES.keys() | {f"storage.{key}" for key in BESIDE}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"video": {"resize": "340x256", "short_side": 256}}, "--resize and --short-side exclude each other"),
        ({"video": {"fps": 5.0, "stride": 2}}, "--fps and --stride exclude each other"),
        ({"storage": {"rounding": "round"}}, "--rounding round is a convention of fixed ranges: add --range fixed"),
        ({"storage": {"bound": 32}}, "--bound 32.0 is the bound of a fixed range of 8 bits: add --range fixed, or"),
        ({"storage": {"codec": "htj2k", "bound": 32}}, "--bound 32.0 is the bound of a fixed range of 8 bits"),
        ({"storage": {"codec": "blosc", "bound": 32}}, "--bound 32.0 is the bound .* or --codec blosc --bits 8"),
        (
            {"storage": {"codec": "htj2k", "range": "fixed"}},
            "--range fixed is for --codec jpeg: leave it out with htj2k",
        ),
        ({"storage": {"codec": "blosc", "quality": 80}}, "--quality 80 is for --codec jpeg: leave it out with blosc"),
        ({"storage": {"level": 0.002}}, "--level 0.002 is for --codec htj2k: add that"),
        ({"storage": {"codec": "htj2k", "bits": 8}}, "--bits 8 is for --codec blosc: add that"),
        (
            {"storage": {"codec": "blosc", "bits": 8, "step": 1}},
            "--step 1.0 is for --codec blosc with 16 bits: add that",
        ),
        (
            {"storage": {"rgb": False, "rgb_quality": 80}},
            "--rgb-quality 80 is for stored RGB frames: leave --no-rgb out",
        ),
    ],
)
def test_keys_that_exclude_each_other(tree: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build(tree, "x")


@pytest.mark.parametrize(
    ("text", "videos", "allowed"),
    [
        ("0", 1000, 0),
        ("3", 1, 3),
        ("1%", 99, 0),
        ("1%", 100, 1),
        ("1%", 9_537, 95),
        ("0.5%", 200, 1),
        ("0.57%", 10_000, 57),  # 56.99... in floating point
        ("100%", 7, 7),
        ("0%", 7, 0),
    ],
)
def test_failures_allowed(text: str, videos: int, allowed: int) -> None:
    assert RunConfig(max_failed=text).failures_allowed(videos) == allowed


def test_verdicts_to_retry() -> None:
    assert RunConfig().retry_verdicts() == frozenset()
    assert RunConfig(retry_status=" crashed,timeout ,").retry_verdicts() == {Verdict.CRASHED, Verdict.TIMEOUT}
    with pytest.raises(UsageError, match="--retry-status crashd: no such verdict. Did you mean 'crashed'?"):
        RunConfig(retry_status="timeout,crashd")


@pytest.mark.parametrize(
    ("config", "height", "width", "expected"),
    [
        ({}, 240, 321, (240, 321)),
        ({"resize": "340x256"}, 100, 900, (256, 340)),
        ({"short_side": 256}, 480, 640, (256, 341)),
        ({"short_side": 256}, 640, 480, (341, 256)),
        ({"short_side": 480}, 240, 320, (480, 640)),
        ({"short_side": 16}, 20, 20_000, (16, 16_000)),
    ],
)
def test_sizes_of_flow(config: dict[str, Any], height: int, width: int, expected: tuple[int, int]) -> None:
    assert VideoConfig(**config).flow_size(height, width) == expected


@pytest.mark.parametrize(("text", "value"), [("1e2", 100.0), ("1.5e+1", 15.0), ("5e-1", 0.5)])
def test_powers_of_ten_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    """YAML takes them for text unless they have a point and a sign."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"run:\n  stall_seconds: {text}\n")
    assert build(read_pipeline(path), str(path)).run.stall_seconds == value


@pytest.mark.parametrize("text", ["1e999", "e3", "1e", "1e3.5", "one"])
def test_what_only_looks_like_a_power_of_ten_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(f"run:\n  stall_seconds: {text}\n")
    with pytest.raises(UsageError, match="stall_seconds"):
        read_pipeline(path)
