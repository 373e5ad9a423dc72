"""What the documentation says is what the program does.

README.md and docs/*.md are held to these conventions:

- ```python blocks run, one after the other, in one namespace for each page; ```yaml blocks are pipeline files, by their
  keys of extract, stack or transcode.
- ```console blocks run: "$ " begins a command, the lines below it are among what it prints, in that order, and "..."
  stands for anything. In ```bash blocks every line is a command. The last command of a block ends with exit code 0, or
  with that of a line "<!-- exit 65 -->" right before the block; the others with 0.
- A line "<!-- not run: why -->" right before a block leaves it alone. ```sh blocks are forms to fill in, with the
  places in CAPITALS; they and ```text blocks do not run.
- All of it runs in a folder of its own for each page, with what :func:`prepared` puts there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import yaml
import zarr

from flowprep import flow
from flowprep.cli import COMMANDS
from flowprep.cli import flowprep as group
from flowprep.cli.options import POSITIONAL, registry
from flowprep.config import METHODS, ROUNDINGS, ExtractConfig, StackingConfig, StorageConfig, TranscodeConfig, build
from flowprep.config.storage import BITS, CODECS
from flowprep.errors import ExitCode, Verdict
from flowprep.flow import brox, tvl1
from flowprep.flow.opencv import DIS_PRESETS
from flowprep.quantise import quantise
from flowprep.store.zarr_codec import encoding
from flowprep.synthetic import write_demo_videos
from flowprep.types import LedgerRow
from tests.command import COMMAND
from tests.command import flowprep as run_flowprep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {"make", "pip"}  # they install; what flowprep does is told by its own commands
MACHINE_PATH = re.compile(r"(?<![\w.~:/])/(?:home|root|tmp|usr|var|mnt|work|Users|opt)/")

BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
TABLE = re.compile(r"^\|(?P<header>.*)\|\n\|[-|]+\|\n(?P<rows>(?:\|.*\|\n)+)", re.M)


class Table(NamedTuple):
    header: list[str]
    rows: list[list[str]]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def section(page: str, heading: str) -> str:
    """The part of docs/PAGE below the first heading that contains ``heading``, up to the next one of its level."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    begin = re.search(rf"^(#+) [^\n]*{re.escape(heading)}[^\n]*\n", text, re.M)
    assert begin, f"docs/{page} has no heading {heading!r}"
    end = re.compile(rf"^#{{1,{len(begin[1])}}} ", re.M).search(text, begin.end())
    return text[begin.end() : end.start() if end else len(text)]


def parameter_table(method: str, backend: str) -> Table | None:
    """None for a method without parameters. One that several backends have says which in the headings."""
    heading = f"`{method}` on `{backend}`" if len(flow.BACKENDS[method]) > 1 else f"`{method}`"
    found = [table for table in tables(section("methods.md", heading)) if table.header[0] == "parameter"]
    assert len(found) <= 1, f"which of these is for {method} on {backend}?"
    return found[0] if found else None


def tables(text: str) -> list[Table]:
    def cells(line: str) -> list[str]:
        return [cell.strip() for cell in line.strip().strip("|").split("|")]

    return [Table(cells(m["header"]), [cells(line) for line in m["rows"].splitlines()]) for m in TABLE.finditer(text)]


def code(cell: str) -> list[str]:
    """All that stands in `backticks`."""
    return re.findall(r"`([^`]*)`", cell)


def first_column(table: Table) -> list[str]:
    return [word for row in table.rows for word in code(row[0])]


# --- the tables ---


def described(kind: Any, choices: tuple[str, ...]) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true/false", dict: "mapping"}
    return "choice" if choices else names[kind]


@pytest.mark.parametrize(
    "part", [*(item.name for item in dataclasses.fields(ExtractConfig) if item.name != "output"), "stack"]
)
def test_every_key_with_option_type_and_default(part: str) -> None:
    (table,) = tables(section("configuration.md", part))
    options = [
        option for option in registry(StackingConfig if part == "stack" else ExtractConfig) if option.section == part
    ]
    expected = {
        option.key: (
            [option.flag, f"--no-{option.flag[2:]}"] if option.default is True else [option.flag],
            described(option.kind, option.choices),
            {} if option.kind is dict else option.default,
        )
        for option in options
    }
    expected |= {key: ([], "text", "") for where, key in POSITIONAL if where == part}
    found = {code(row[0])[0]: (code(row[1]), row[2], yaml.safe_load(code(row[3])[0])) for row in table.rows}
    assert found == expected
    for option in options:
        row = next(row for row in table.rows if row[0] == f"`{option.key}`")
        assert set(option.choices) - {""} <= set(code(row[3]) + code(row[5])), option.key


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_its_arguments_and_options(name: str) -> None:
    pages = {
        "submit": "cluster.md",
        **dict.fromkeys(("info", "show", "status", "verify"), "dataset.md"),
        **dict.fromkeys(("stack", "transcode"), "stacks.md"),
    }
    page = pages.get(name, "extract.md")
    text = section(page, f"`flowprep {name}`")
    command = group.get_command(click.Context(group), name)
    assert command
    runs = name in ("extract", "submit", "stack", "transcode")
    from_registry = {option.name for option in registry()} if runs else set()  # docs/configuration.md has these
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in from_registry:
            assert set(parameter.opts) <= set(first_column(tables(text)[0])), parameter.name
        elif isinstance(parameter, click.Argument):
            assert (parameter.metavar or parameter.name or "").strip("[]").lower() in text.lower(), parameter.name


def test_options_of_the_program_itself() -> None:
    text = section("extract.md", "Before the first run")
    for parameter in group.params:
        assert f"`flowprep {parameter.opts[0]}`" in text


def test_every_verdict_and_every_exit_code() -> None:
    assert first_column(tables(section("extract.md", "Failures"))[0]) == [str(verdict) for verdict in Verdict]
    codes = {name: value for name, value in vars(ExitCode).items() if name.isupper()}
    (table,) = tables(section("extract.md", "Exit codes"))
    assert {row[1]: int(row[0]) for row in table.rows} == codes


def test_every_method_with_its_backends() -> None:
    table = tables((ROOT / "docs/methods.md").read_text(encoding="utf-8"))[0]
    assert {code(row[0])[0]: code(row[1]) for row in table.rows} == {m: list(flow.BACKENDS[m]) for m in METHODS}


@pytest.mark.parametrize(("method", "backend"), [(m, b) for m in METHODS for b in flow.BACKENDS[m]])
def test_every_parameter_with_its_default(method: str, backend: str) -> None:
    table = parameter_table(method, backend)
    documented = {code(row[0])[0]: yaml.safe_load(code(row[1])[0]) for row in table.rows} if table else {}
    assert documented == flow.find(method, backend).parameters_type().to_json()


PRESETS = {("tvl1", "cpu"): tvl1.PRESETS, ("brox", "cpu"): brox.PRESETS}


@pytest.mark.parametrize(("method", "backend"), PRESETS)
def test_what_the_presets_set(method: str, backend: str) -> None:
    table = parameter_table(method, backend)
    assert table
    first, *rows = table.rows
    presets = PRESETS[method, backend]
    assert code(first[0]) == ["preset"] and code(first[-1]) == list(presets)
    documented = {
        code(heading)[0]: {code(row[0])[0]: float(row[column]) for row in rows}
        for column, heading in enumerate(table.header[2:-1], start=2)
    }
    assert documented == {
        preset: {name.rstrip("_"): value for name, value in values.items()} for preset, values in presets.items()
    }


def test_presets_of_dis() -> None:
    table = tables(section("methods.md", "`dis`"))[1]
    assert {code(row[0])[0]: tuple(map(int, row[1:])) for row in table.rows} == DIS_PRESETS


def arrays_of(dataset: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Dimensions and attributes of every array, by its name without sizes."""
    root = zarr.open_group(dataset, mode="r")
    return {
        re.sub(r"\d+x\d+(?!x)", "HxW", re.sub(r"stack_\d+", "stack_2L", name)): (
            list(array.metadata.dimension_names),
            list(array.attrs),
        )
        for name, array in root.arrays()
    }


def described_arrays(table: Table) -> dict[str, tuple[list[str], list[str]]]:
    return {code(row[0])[0]: (row[1].split(", "), code(row[2])) for row in table.rows}


def stacked(prepared: Path, folder: Path) -> Path:
    """A dataset of stacks."""
    done = run_flowprep("stack", "flow.zarr", str(folder / "stacks.zarr"), "--length", "2", cwd=prepared)
    assert done.returncode == 0, done.stderr
    return folder / "stacks.zarr"


def test_the_dataset_to_the_attribute(prepared: Path, tmp_path: Path) -> None:
    dataset = prepared / "flow.zarr"
    root = zarr.open_group(dataset, mode="r")
    assert sorted(first_column(tables(section("dataset.md", "The table of videos"))[0])) == sorted(root["videos"])
    attributes = root.attrs["flowprep"]
    assert isinstance(attributes, dict)
    assert first_column(tables(section("dataset.md", "Attributes"))[0]) == list(attributes)

    fields, stacks = tables(section("dataset.md", "Layout"))
    assert described_arrays(fields) == arrays_of(dataset)
    assert described_arrays(stacks) == arrays_of(stacked(prepared, tmp_path))

    plan, commit, ledger = tables(section("dataset.md", "Records"))[:3]
    assert first_column(plan) == list(json.loads((dataset / ".flowprep/plan.0.json").read_bytes()))
    assert sorted(first_column(commit)) == sorted(json.loads((dataset / ".flowprep/commits/0.00000.json").read_bytes()))
    words = [word for row in ledger.rows for word in code(row[0])]
    assert sorted(words) == sorted(item.name for item in dataclasses.fields(LedgerRow))


def test_every_convention() -> None:
    conventions, payloads = tables(section("dataset.md", "From levels to pixels"))
    found = []
    for row in conventions.rows:
        given: dict[str, Any] = yaml.safe_load("\n".join(code(row[1])).replace("--", "").replace(" ", ": ")) or {}
        storage = StorageConfig(*code(row[0]), **given)
        stored = quantise(np.zeros((1, 2, 16, 16), np.float32), storage)
        assert row[2] == stored.levels.dtype.name
        assert row[4] == f"{stored.zero[0, 0]:g}" or given == {"range": "field"}
        found.append(storage)
    fixed = [StorageConfig(range="fixed", rounding=rounding) for rounding in ROUNDINGS]
    blosc = [StorageConfig(codec="blosc", bits=bits) for bits in BITS]
    assert found == [StorageConfig(), *fixed, StorageConfig(codec="htj2k"), *blosc]

    assert first_column(payloads) == list(CODECS)
    for row in payloads.rows:
        coding = encoding(StorageConfig(*code(row[0])))
        assert code(row[2]) == [
            part.to_dict()["name"] for part in (coding["serializer"], *(coding["compressors"] or ()))
        ]


# --- the blocks ---


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """videos/CLASS/CLASS_00.*, flow.zarr made of them, data/ucf101/ with lists of them, and pipelines/."""
    folder = tmp_path_factory.mktemp("prepared")
    videos = write_demo_videos(folder / "videos", clips_per_class=1, frames=8, height=32, width=48)
    done = run_flowprep("extract", "videos", "flow.zarr", cwd=folder)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "videos", folder / "data/ucf101/videos")
    lists = folder / "data/ucf101/ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {video.label}\n" for i, video in enumerate(videos, start=1)))
    (lists / "trainlist01.txt").write_text("".join(f"{video.id} {i}\n" for i, video in enumerate(videos[:3], start=1)))
    (lists / "testlist01.txt").write_text("".join(f"{video.id}\n" for video in videos[3:]))
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    return folder


def commands(language: str, text: str) -> list[tuple[str, list[str]]]:
    """Each command of a block with the lines that it is said to print."""
    lines = text.replace("\\\n", " ").splitlines()
    if language == "bash":
        return [(line.removeprefix("$ "), []) for line in lines if line.strip() and not line.startswith("#")]
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def missing_line(expected: list[str], output: str) -> str:
    """The first of ``expected`` that does not follow the one before it in ``output``; "" if all are there."""
    lines = iter(output.splitlines())
    for wanted in expected:
        pattern = re.escape(wanted).replace(re.escape("..."), ".*")
        if not any(re.fullmatch(pattern, line.rstrip()) for line in lines):
            return wanted
    return ""


def run_commands(where: str, language: str, text: str, mark: str, folder: Path) -> None:
    script = folder.parent / "bin/flowprep"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{script.parent}{os.pathsep}{os.environ['PATH']}"}
    todo = commands(language, text)
    assert todo, f"{where}: a block without a command"
    for number, (command, printed) in enumerate(todo, start=1):
        if (program := shlex.split(command)[0]) in NOT_RUN:
            continue
        assert program in ("flowprep", "cp", "head"), f"{where}: {command}: not a command that pages show"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        code = int(mark.removeprefix("exit ")) if mark.startswith("exit ") and number == len(todo) else 0
        assert done.returncode == code, f"{where}: {command}: exit code {done.returncode}\n{done.stdout}"
        wanted = missing_line(printed, done.stdout)
        assert not wanted, f"{where}: {command}: does not print (here)\n{wanted}\nbut\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    content = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {}
    for block in BLOCK.finditer(content):
        line = content.count("\n", 0, block.start("text"))
        mark = block["mark"] or ""
        if mark.startswith("not run: "):
            continue
        where = f"{name_of(page)}, line {line}"
        if block["language"] == "python":
            exec(compile("\n" * line + block["text"], name_of(page), "exec"), namespace)
        elif block["language"] == "yaml":
            tree = yaml.safe_load(block["text"])
            build(
                tree,
                where,
                StackingConfig if "stack" in tree else TranscodeConfig if "dataset" in tree else ExtractConfig,
            )
        elif block["language"] in ("console", "bash"):
            run_commands(where, block["language"], block["text"], mark, folder)
        elif block["language"] == "sh":
            assert re.search(r"\b[A-Z]{3,}\b", block["text"]), f"{where}: nothing to fill in: make it console or bash"
        else:
            assert block["language"] == "text", f"{where}: what is {block['language']}?"


def test_every_block_is_seen() -> None:
    """A fence that BLOCK does not match would never be run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(BLOCK.findall(text)), name_of(page)


# --- links and paths ---


def anchors(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name_of(page)}: no heading for {target}"


def test_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name_of(page) for page in PAGES[1:] if f"({name_of(page)}" not in text]
    assert not missing


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "pipelines").glob("*.yaml"))], ids=name_of)
def test_no_paths_of_somebodys_machine(page: Path) -> None:
    assert not MACHINE_PATH.findall(page.read_text(encoding="utf-8"))
