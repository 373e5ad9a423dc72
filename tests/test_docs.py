"""What the tables of the documentation list is what there is: options, keys, verdicts, methods, arrays. Links lead on.

The commands and programs in it are run by test_docs_blocks.py.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import yaml
import zarr

from flowprep import flow
from flowprep.cli import COMMANDS, experiment, fuse
from flowprep.cli import flowprep as group
from flowprep.cli.options import POSITIONAL, registry
from flowprep.cli.train import KEYS
from flowprep.config import (
    METHODS,
    ROUNDINGS,
    ExperimentConfig,
    ExtractConfig,
    NetConfig,
    SolverConfig,
    StackConfig,
    Stacking,
    StackingConfig,
    StorageConfig,
    TrainDataConfig,
    TrainingConfig,
)
from flowprep.config.storage import BITS, CODECS
from flowprep.config.train import NETS
from flowprep.errors import ExitCode, Verdict
from flowprep.flow import brox, tvl1
from flowprep.flow.opencv import DIS_PRESETS
from flowprep.quantise import quantise
from flowprep.store.zarr_codec import encoding
from flowprep.train.log import read_log
from flowprep.train.run_folder import FREE
from flowprep.train.scores import Scores
from flowprep.types import LedgerRow
from tests.in_process import small_dataset, stack
from tests.training_data import run, tiny

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MACHINE_PATH = re.compile(r"(?<![\w.~:/])/(?:home|root|tmp|usr|var|mnt|work|Users|opt)/")

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
    heading = f"`{method}`"
    if len(flow.BACKENDS[method]) > 1:
        (heading,) = re.findall(rf"^#+ (`{method}` on .*`{backend}`.*)$", (ROOT / "docs/methods.md").read_text(), re.M)
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
    names = {str: "text", int: "integer", float: "number", bool: "true/false", dict: "mapping", list: "list"}
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


def option_table(text: str) -> Table:
    return next(table for table in tables(text) if table.header[0] == "option")


TRAINING = {
    "train": TrainingConfig,
    "train.data": TrainDataConfig,
    "train.net": NetConfig,
    "train.solver": SolverConfig,
    "experiment": ExperimentConfig,
}


@pytest.mark.parametrize("part", TRAINING)
def test_every_key_of_training_with_option_type_and_default(part: str) -> None:
    kind = TRAINING[part]
    (table,) = tables(section("configuration.md", part))
    options = {f"train.{where}.{key}": f"--{name}" for name, (where, key) in KEYS.items()}
    arguments = {"train.dataset": "DATASET", "train.output": "RUN"}
    types = {**typing.get_type_hints(kind), "spatial": dict, "temporal": dict}
    default = kind()
    for item in dataclasses.fields(kind):
        if item.name == "stream" or dataclasses.is_dataclass(types[item.name]):
            continue
        (row,) = (row for row in table.rows if code(row[0]) == [item.name])
        cells = dict(zip(table.header, row, strict=True))
        choices = item.metadata["choices"]
        base = typing.get_origin(types[item.name]) or types[item.name]
        assert cells["type"] == described(base, choices), item.name
        assert yaml.safe_load(code(cells["default"])[0]) == getattr(default, item.name), item.name
        assert set(choices) <= set(code(cells["default"]) + code(cells["meaning"])), item.name
        name = f"{part}.{item.name}"
        option = cells.get("option", "–").strip("`")
        assert option == options.get(name, arguments.get(name, "–")), item.name
    known = {item.name for item in dataclasses.fields(kind) if not dataclasses.is_dataclass(types[item.name])}
    assert set(first_column(table)) == known - {"stream"}


def test_the_keys_of_stacks_to_train_on() -> None:
    keys = [item.name for item in dataclasses.fields(Stacking)]
    assert code(section("configuration.md", "train.stack"))[: len(keys)] == keys
    assert all(getattr(Stacking(), key) == getattr(StackConfig(), key) for key in keys)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_its_arguments_and_options(name: str) -> None:
    pages = {
        "submit": "cluster.md",
        **dict.fromkeys(("info", "show", "status", "verify"), "dataset.md"),
        **dict.fromkeys(("stack", "transcode"), "stacks.md"),
        **dict.fromkeys(("train", "evaluate", "fuse", "report", "predict", "experiment"), "training.md"),
    }
    page = pages.get(name, "extract.md")
    text = section(page, f"`flowprep {name}`")
    command = group.get_command(click.Context(group), name)
    assert command
    runs = name in ("extract", "submit", "stack", "transcode")
    from_registry = {option.name for option in registry()} if runs else set()  # docs/configuration.md has these
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in from_registry:
            flags = {*parameter.opts, *parameter.secondary_opts}
            assert flags <= set(first_column(option_table(text))), parameter.name
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
    assert documented == flow.find(method, backend, elsewhere=True).parameters_type().to_json()


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
    """Dimensions and attributes of every array, by its name without sizes; backward flow has those of forward flow."""
    root = zarr.open_group(dataset, mode="r")
    return {
        re.sub(r"\d+x\d+(?!x)", "HxW", re.sub(r"stack_\d+", "stack_2L", name.replace("_backward", ""))): (
            list(array.metadata.dimension_names),
            list(array.attrs),
        )
        for name, array in root.arrays()
    }


def described_arrays(table: Table) -> dict[str, tuple[list[str], list[str]]]:
    return {code(row[0])[0]: (row[1].split(", "), code(row[2])) for row in table.rows}


def test_the_dataset_to_the_attribute(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path)
    stack(dataset, tmp_path / "stacks.zarr", length=2)
    root = zarr.open_group(dataset, mode="r")
    assert sorted(first_column(tables(section("dataset.md", "The table of videos"))[0])) == sorted(root["videos"])
    attributes = root.attrs["flowprep"]
    assert isinstance(attributes, dict)
    assert first_column(tables(section("dataset.md", "Attributes"))[0]) == list(attributes)

    fields, stacks = tables(section("dataset.md", "Layout"))
    assert described_arrays(fields) == arrays_of(dataset)
    assert described_arrays(stacks) == arrays_of(tmp_path / "stacks.zarr")

    plan, commit, ledger = tables(section("dataset.md", "Records"))[:3]
    assert first_column(plan) == list(json.loads((dataset / ".flowprep/plan.0.json").read_bytes()))
    assert sorted(first_column(commit)) == sorted(json.loads((dataset / ".flowprep/commits/0.00000.json").read_bytes()))
    words = [word for row in ledger.rows for word in code(row[0])]
    assert sorted(words) == sorted(item.name for item in dataclasses.fields(LedgerRow))


def test_networks_fusions_scores_and_tables() -> None:
    assert set(NETS) <= set(code(section("training.md", "What is trained")))
    assert first_column(tables(section("training.md", "`flowprep fuse`"))[0]) == list(fuse.METHODS)
    fields = [item.name for item in dataclasses.fields(Scores)]
    assert sorted(first_column(tables(section("training.md", "Files of scores"))[0])) == sorted(fields)
    assert all(f"`{table}`" in section("training.md", "`flowprep experiment`") for table in experiment.TABLES)


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    run(tiny(tmp_path / "run", data={"on_damage": "skip"}, solver={"iterations": 1}))
    text = section("training.md", "The folder of a run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"checkpoint.pt", "config.yaml", "events", "log.jsonl"}
    assert files <= set(code(text))
    keys = {key for line in read_log(tmp_path / "run/log.jsonl") for key in line}
    assert set(first_column(tables(text)[0])) == keys


def test_what_may_change_when_a_run_goes_on() -> None:
    words = code(section("training.md", "Stopping and continuing"))
    named = {name for name in FREE if {name, name.removeprefix("solver.")} & set(words)}
    every = {name for name in FREE if name.endswith("_every")}
    assert len(every) == 3
    assert named | every | {"dataset", "output", "data.also", "data.added"} == FREE


def test_every_convention() -> None:
    conventions, payloads = tables(section("dataset.md", "From levels to pixels"))
    found = []
    for row in conventions.rows:
        given: dict[str, Any] = yaml.safe_load("\n".join(code(row[1])).replace("--", "").replace(" ", ": ")) or {}
        storage = StorageConfig(code(row[0])[0], **given)
        stored = quantise(np.zeros((1, 2, 16, 16), np.float32), storage)
        assert row[2] == stored.levels.dtype.name
        assert row[4] == f"{stored.zero[0, 0]:g}" or given == {"range": "field"}
        found.append(storage)
    fixed = [StorageConfig(range="fixed", rounding=rounding) for rounding in ROUNDINGS]
    blosc = [StorageConfig(codec="blosc", bits=bits) for bits in BITS]
    assert found == [StorageConfig(), *fixed, StorageConfig(codec="htj2k"), *blosc]

    assert first_column(payloads) == list(CODECS)
    for row in payloads.rows:
        coding = encoding(StorageConfig(code(row[0])[0]))
        assert code(row[2]) == [part.to_dict()["name"] for part in (coding["serializer"], *coding["compressors"][:-1])]


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
