"""What the documentation shows is what the program does.

README.md and docs/*.md are held to these conventions:

- ```python blocks run, one after the other, in one namespace for each page; ```yaml blocks are pipeline files, by their
  keys of extract, stack or transcode, and of training and experiment if they have those sections.
- ```console blocks run: "$ " begins a command, the lines below it are among what it prints, in that order, and "..."
  stands for anything. In ```bash blocks every line is a command. The last command of a block ends with exit code 0, or
  with that of a line "<!-- exit 65 -->" right before the block; the others with 0.
- A line "<!-- not run: why -->" right before a block leaves it alone. ```sh blocks are forms to fill in, with the
  places in CAPITALS; they and ```text blocks do not run.
- All of it runs in a folder of its own for each page, with what :func:`prepared` puts there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowprep.config import (
    ExtractConfig,
    StackingConfig,
    TranscodeConfig,
    read_experiment,
    read_pipeline,
    read_training,
)
from flowprep.synthetic import write_demo_videos, write_training_videos
from tests.command import COMMAND
from tests.command import flowprep as run_flowprep
from tests.test_docs import PAGES, ROOT, name_of

LONG = {"dataset.md", "stacks.md", "training.md"}  # whose commands take long
NOT_RUN = {"make", "pip"}  # they install; what flowprep does is told by its own commands

BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """videos/CLASS/CLASS_00.*, flow.zarr made of them, data/ucf101/ with lists of them; demo-output/videos to train on;
    and pipelines/, of which demo.yaml is made to train in a moment.
    """
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
    write_training_videos(folder / "demo-output/videos", train=2, test=1, frames=8, height=32, width=48)
    shutil.copytree(ROOT / "pipelines", folder / "pipelines")
    demo = folder / "pipelines/demo.yaml"
    text = demo.read_text(encoding="utf-8")
    for setting, small in (("crop: 112", "crop: 24"), ("iterations: 120", "iterations: 2"), ("batch: 64", "batch: 8")):
        assert setting in text
        text = text.replace(setting, small)
    demo.write_text(text, encoding="utf-8")
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


def read_as_the_commands_do(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")
    tree = yaml.safe_load(text)
    kind = StackingConfig if "stack" in tree else TranscodeConfig if "dataset" in tree else ExtractConfig
    read_pipeline(path, kind)
    if "train" in tree:
        read_training(path)
    if "experiment" in tree:
        read_experiment(path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.system) if page.name in LONG else page for page in PAGES],
    ids=name_of,
)
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
            read_as_the_commands_do(block["text"], tmp_path / "pipeline.yaml")
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
