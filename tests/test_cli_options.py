"""Every key of a pipeline file has its option, every option reaches its key, and the command line has the last word."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from flowprep.cli import extract, stack, transcode
from flowprep.cli.options import NOT_TAKEN, POSITIONAL, Option, apply, registry
from flowprep.config import ExtractConfig, StackingConfig, TranscodeConfig, build, read_pipeline
from flowprep.errors import UsageError

# An argument for each option, and what its key becomes.
GIVEN: dict[str, tuple[list[str], Any]] = {
    "source.annotations": (["lists"], "lists"),
    "source.layout": (["ucf101"], "ucf101"),
    "source.root": (["videos"], "videos"),
    "video.resize": (["340x256"], "340x256"),
    "video.short_side": (["256"], 256),
    "video.stride": (["2"], 2),
    "video.fps": (["12"], 12.0),
    "video.max_pixels": (["1000000"], 1_000_000),
    "video.max_frames": (["500"], 500),
    "flow.method": (["dis"], "dis"),
    "flow.backend": (["opencv"], "opencv"),
    "flow.direction": (["both"], "both"),
    "flow.parameters": (["tvl1.warps=5"], {"warps": "5"}),
    "storage.codec": (["htj2k"], "htj2k"),
    "storage.range": (["fixed"], "fixed"),
    "storage.bound": (["32"], 32.0),
    "storage.rounding": (["trunc"], "trunc"),
    "storage.quality": (["80"], 80),
    "storage.level": (["0.002"], 0.002),
    "storage.bits": (["8"], 8),
    "storage.step": (["0.125"], 0.125),
    "storage.rgb": ([], False),
    "storage.rgb_short_side": (["128"], 128),
    "storage.rgb_quality": (["80"], 80),
    "stack.kind": (["trajectory"], "trajectory"),
    "stack.length": (["4"], 4),
    "stack.temporal_stride": (["2"], 2),
    "stack.bidirectional": ([], True),
    "stack.mean_subtract": ([], False),
    "stack.anchor": (["centre"], "centre"),
    "stack.short": (["repeat-last"], "repeat-last"),
    "stack.every": (["8"], 8),
    "stack.per_video": (["25"], 25),
    "stack.backward": (["frames"], "frames"),
    "stack.size": (["224x160"], "224x160"),
    "run.workers": (["3"], 3),
    "run.max_failed": (["1%"], "1%"),
    "run.retry_status": (["crashed"], "crashed"),
    "run.extend": ([], True),
    "run.stall_seconds": (["60"], 60.0),
    "run.memory_limit": (["2048"], 2048),
    "run.grace": (["60"], 60.0),
    "run.dry_run": ([], True),
    "cluster.executor": (["batch"], "batch"),
    "cluster.scheduler": (["tls://node1:8786"], "tls://node1:8786"),
    "cluster.scheduler_file": (["scheduler.json"], "scheduler.json"),
    "cluster.tls_ca_file": (["ca.pem"], "ca.pem"),
    "cluster.tls_cert": (["cert.pem"], "cert.pem"),
    "cluster.tls_key": (["key.pem"], "key.pem"),
    "cluster.insecure": ([], True),
    "cluster.task": (["3/100"], "3/100"),
}
CLUSTER = ["--scheduler", "tls://node1:8786"]
NEEDS = {
    "cluster.tls_ca_file": [*CLUSTER, "--tls-cert", "cert.pem", "--tls-key", "key.pem"],
    "cluster.tls_cert": [*CLUSTER, "--tls-ca-file", "ca.pem", "--tls-key", "key.pem"],
    "cluster.tls_key": [*CLUSTER, "--tls-ca-file", "ca.pem", "--tls-cert", "cert.pem"],
    "cluster.insecure": CLUSTER,
    "cluster.task": ["--executor", "batch"],
    "storage.bound": ["--range", "fixed"],
    "storage.rounding": ["--range", "fixed"],
    "storage.level": ["--codec", "htj2k"],
    "storage.bits": ["--codec", "blosc"],
    "storage.step": ["--codec", "blosc"],
    "stack.backward": ["--bidirectional"],
}
# What each configuration belongs to: a command, and a class in flowprep.run.driver that carries it out.
COMMANDS: dict[type[Any], tuple[click.Command, str]] = {
    ExtractConfig: (extract.command, "Extraction"),
    StackingConfig: (stack.command, "Stacking"),
    TranscodeConfig: (transcode.command, "Transcoding"),
}
every_command = pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
OPTIONS = [
    pytest.param(kind, option, id=f"{COMMANDS[kind][0].name}-{option.section}.{option.key}")
    for kind in COMMANDS
    for option in registry(kind)
]


def key_of(option: Option) -> str:
    return f"{option.section}.{option.key}"


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the command with these arguments would run (``flowprep extract``, if no other): its configuration, or the
    error."""
    found: list[Any] = []

    class Run:
        def __init__(self, config: Any, *_: object, **__: object) -> None:
            found.append(config)
            raise click.exceptions.Exit(0)

    for _, name in COMMANDS.values():
        monkeypatch.setattr(f"flowprep.run.driver.{name}", Run)

    def run(*arguments: str, kind: type[Any] = ExtractConfig) -> Any:
        result = CliRunner().invoke(COMMANDS[kind][0], arguments)
        if isinstance(result.exception, UsageError):
            raise result.exception
        return found[-1] if result.exit_code == 0 and found else result

    return run


def value_of(config: Any, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


@every_command
def test_every_key_has_an_option(kind: type[Any]) -> None:
    keys = {
        (section.name, item.name)
        for section in dataclasses.fields(kind)
        if dataclasses.is_dataclass(value := getattr(kind(), section.name))
        for item in dataclasses.fields(value)
    }
    options = {(option.section, option.key) for option in registry(kind)}
    assert options == keys - POSITIONAL - NOT_TAKEN.get(kind, set())
    flags = [option.flag for option in registry(kind)]
    assert len(set(flags)) == len(flags)
    assert all(option.help.endswith(".") for option in registry(kind))


def test_there_is_no_option_that_is_not_tried() -> None:
    assert {key_of(option) for kind in COMMANDS for option in registry(kind)} == GIVEN.keys()


@pytest.mark.parametrize(("kind", "option"), OPTIONS)
def test_every_option_reaches_its_key(kind: type[Any], option: Option, parse: Callable[..., Any]) -> None:
    arguments, expected = GIVEN[key_of(option)]
    flag = f"--no-{option.flag[2:]}" if option.kind is bool and option.default else option.flag
    config = parse("here", "out.zarr", *NEEDS.get(key_of(option), []), flag, *arguments, kind=kind)
    assert value_of(config, key_of(option)) == expected
    assert value_of(config, key_of(option)) != value_of(kind(), key_of(option))
    assert config.output == "out.zarr"
    assert (config.source.path if kind is ExtractConfig else config.dataset) == "here"


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        (ExtractConfig, "--kind"),
        (StackingConfig, "--rgb"),
        (StackingConfig, "--rgb-quality"),
        (StackingConfig, "--method"),
        (TranscodeConfig, "--rgb-short-side"),
        (TranscodeConfig, "--length"),
    ],
)
def test_options_of_other_commands_are_refused(kind: type[Any], flag: str, parse: Callable[..., Any]) -> None:
    result = parse("here", "out.zarr", flag, "80", kind=kind)
    assert result.exit_code == 2 and re.search(f"No such option:? '?{flag}\\b", result.output)


def test_what_is_not_given_stays_at_its_default(parse: Callable[..., ExtractConfig]) -> None:
    config = parse("videos", "out.zarr")
    assert config == dataclasses.replace(
        ExtractConfig(), source=dataclasses.replace(ExtractConfig().source, path="videos"), output="out.zarr"
    )


@pytest.mark.parametrize("kind", [StackingConfig, TranscodeConfig], ids=lambda kind: kind.__name__)
def test_a_pipeline_file_of_a_dataset_from_a_dataset(
    kind: type[Any], tmp_path: Path, parse: Callable[..., Any]
) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("dataset: from-file\noutput: file.zarr\nstorage: {codec: htj2k, level: 0.01}\nrun: {workers: 2}\n")
    assert parse("-c", str(path), kind=kind) == build(read_pipeline(path, kind), str(path), kind)
    config = parse("here", "-c", str(path), "--level", "0.002", kind=kind)
    assert (config.dataset, config.output, config.run.workers) == ("here", "file.zarr", 2)
    assert (config.storage.codec, config.storage.level) == ("htj2k", 0.002)


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "source: {path: from-file, layout: folder}\noutput: file.zarr\nvideo: {stride: 3}\n"
        "flow: {method: tvl1, parameters: {warps: 7, tau: 0.2}}\nstorage: {rgb: false, quality: 70}\n"
        "run: {extend: true, workers: 2}\n"
    )
    return str(path)


def test_a_pipeline_file_alone(pipeline: str, parse: Callable[..., ExtractConfig]) -> None:
    assert parse("-c", pipeline) == build(read_pipeline(Path(pipeline)), pipeline)


def test_options_override_the_file_key_by_key(pipeline: str, parse: Callable[..., ExtractConfig]) -> None:
    arguments = ("--stride", "1", "--rgb", "--workers", "0", "--set", "tvl1.warps=9", "--layout", "auto")
    config = parse("here", "-c", pipeline, *arguments)
    assert config.source.path == "here" and config.output == "file.zarr"
    assert config.source.layout == "auto"
    assert config.video.stride == 1, "an option at its default is an option given"
    assert config.storage.rgb is True and config.storage.quality == 70
    assert config.run.workers == 0 and config.run.extend is True
    assert config.flow.parameters == {"warps": "9", "tau": 0.2}


@pytest.mark.parametrize(("flags", "expected"), [([], True), (["--rgb"], True), (["--no-rgb"], False)])
def test_rgb_and_no_rgb(flags: list[str], expected: bool, parse: Callable[..., ExtractConfig]) -> None:
    assert parse("videos", "out.zarr", *flags).storage.rgb is expected


def test_set_may_be_repeated_and_the_last_one_counts(parse: Callable[..., ExtractConfig]) -> None:
    config = parse("v", "o", "--set", "tvl1.warps=5", "--set", "tvl1.tau=0.1", "--set", "tvl1.warps=6")
    assert config.flow.parameters == {"warps": "6", "tau": "0.1"}
    assert parse("v", "o", "--method", "dis", "--set", "dis.preset=a=b").flow.parameters == {"preset": "a=b"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "warps=5"], "--set warps=5: write METHOD.NAME=VALUE, for example --set tvl1.warps=5."),
        (["--set", "tvl1.warps"], "--set tvl1.warps: write METHOD.NAME=VALUE"),
        (["--set", "tvl1.warps="], "write METHOD.NAME=VALUE"),
        (["--set", "tvl1.=5"], "write METHOD.NAME=VALUE"),
        (["--set", "=5"], "write METHOD.NAME=VALUE"),
        (["--set", ".warps=5"], "the method is tvl1"),
        (["--set", "dis.preset=fast"], "the method is tvl1; add --method dis."),
        (["--method", "dis", "--set", "tvl1.warps=5"], "the method is dis; add --method tvl1."),
        (["--fps", "nan"], "video.fps: nan is not a number"),
        (["--stall-seconds", "inf"], "run.stall_seconds: inf is not a number"),
        (["--quality", "0"], "command line: --quality 0: give 1 to 100."),
        (["--resize", "340"], "--resize '340': give width x height in pixels, for example 340x256."),
    ],
)
def test_mistakes_of_options_are_named(arguments: list[str], words: str, parse: Callable[..., ExtractConfig]) -> None:
    with pytest.raises(UsageError) as error:
        parse("videos", "out.zarr", *arguments)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stride", "two"], "'two' is not a valid integer"),
        (["--method", "tvl2"], "'tvl2' is not one of 'tvl1'"),
        (["--strid", "2"], "--stride"),
        (["--set"], "requires an argument"),
    ],
)
def test_mistakes_that_click_finds(arguments: list[str], words: str, parse: Callable[..., Result]) -> None:
    result = parse("videos", "out.zarr", *arguments)
    assert result.exit_code == 2 and words in result.output


def test_a_file_is_checked_before_options_are_put_over_it(tmp_path: Path, parse: Callable[..., ExtractConfig]) -> None:
    """So that a wrong section is the file's mistake and no traceback of ours."""
    for text in ("video: 5\n", "source: videos/\n", "flow: {parameters: [warps]}\n", "storage: {quality: 500}\n"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(UsageError, match=f"{tmp_path / 'x.yaml'}: "):
            parse("videos", "-c", str(tmp_path / "x.yaml"), "--stride", "2", "--set", "tvl1.warps=5", "--quality", "80")


@every_command
def test_help_lists_every_option_with_its_default(kind: type[Any]) -> None:
    runner = CliRunner()
    text = " ".join(runner.invoke(COMMANDS[kind][0], ["--help"], terminal_width=1000).output.split())
    for option in registry(kind):
        assert option.help in text
        assert f"{option.flag} " in text
        for choice in option.choices:
            assert choice in text
    assert text.count("[default: ") == sum(bool(option.default) for option in registry(kind))


def test_help_writes_defaults_as_people_do() -> None:
    text = " ".join(CliRunner().invoke(extract.command, ["--help"], terminal_width=1000).output.split())
    for words in ("--rgb / --no-rgb", "[default: 36,000,000]", "[default: tvl1]", "[default: 20.0]", "[default: on]"):
        assert words in text


def test_applying_changes_nothing_of_what_it_is_given() -> None:
    tree = {"flow": {"method": "dis", "parameters": {"preset": "fast"}}, "video": {"stride": 2}}
    merged = apply(tree, {"video_stride": 3, "flow_parameters": ("dis.preset=medium",), "run_workers": 1})
    assert merged == {
        "flow": {"method": "dis", "parameters": {"preset": "medium"}},
        "video": {"stride": 3},
        "run": {"workers": 1},
    }
    assert tree == {"flow": {"method": "dis", "parameters": {"preset": "fast"}}, "video": {"stride": 2}}
