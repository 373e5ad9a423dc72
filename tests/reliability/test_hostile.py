"""Inputs that are made to do harm: each is refused, with a reason; nothing outside the dataset is opened or changed.

Here the whole command meets them; what each part does with its own is in test_annotations_hostile.py,
test_video_hostile.py, test_config.py and test_damage.py, and test_architecture.py bans what could run foreign code.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowprep.cli import main
from flowprep.config import ExtractConfig, FlowConfig, StorageConfig
from flowprep.encode import read_row_file
from flowprep.errors import ExitCode, Verdict
from flowprep.records import seal
from flowprep.run.product import resolve
from flowprep.store import layout
from flowprep.store.blobs import LocalStore
from flowprep.store.commits import read_commits, rows_in_force
from flowprep.store.layout import ArrayName
from tests.clips import numbered, write_clip
from tests.in_process import extract, plan_more, write_clips
from tests.test_annotations_hostile import OF_DISK, OF_TEXT, filled, pairs, root, write_table  # noqa: F401 - a fixture
from tests.test_video_hostile import PLAYLISTS, Trap, png_video

DIS = ("--method", "dis", "--set", "dis.preset=ultrafast", "--rgb-short-side", "32", "--workers", "1")
FLOW = FlowConfig("dis", "", "forward", {"preset": "ultrafast"})

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process: its exit code and what it says."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["flowprep", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def snapshot(folder: Path, but: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below ``folder``, but not below ``but``."""
    found = {}
    for path in folder.rglob("*"):
        if not path.is_relative_to(but):
            status = path.lstat()
            found[str(path)] = status.st_mode, status.st_size, status.st_mtime_ns
    return found


# --- sources: names, links, playlists, bombs ---


def write_hostile(folder: Path, url: str, port: int) -> dict[str, Verdict]:
    """Put hostile files into ``folder``; name -> the verdict that it must get."""
    found = {filled(name, folder): Verdict.BAD_PATH for name, _ in pairs(OF_TEXT) + pairs(OF_DISK)}
    for name, text in PLAYLISTS.items():
        stem, _, suffix = name.partition(".")
        for alias in (name, f"{stem}-{suffix}.mp4", f"{stem}-{suffix}.avi"):
            (folder / alias).write_text(text.format(neighbour="neighbour.ts", url=url, port=port))
            found[alias] = Verdict.UNDECODABLE
    for name in ("%03d.png", "*.png", "concat:film.mp4", "http:", "pipe:0", "-y.avi"):
        (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
        found[name] = Verdict.UNDECODABLE
    for honest in (True, False):
        found[png_video(folder / f"bomb{honest}.avi", 9000, 9000, honest).name] = Verdict.TOO_LARGE
    return found


def sources(run: Run, place: Path) -> int:
    """All at once in one list, with a good video among them."""
    folder, out = place / "videos", place / "there" / "out.zarr"
    out.parent.mkdir()
    write_clip(folder / "film.mp4", numbered(4))
    neighbour = write_clip(folder / "neighbour.ts", numbered(5))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        expected = write_hostile(folder, f"http://127.0.0.1:{port}/film.ts", port)
        table = [*((name, "x") for name in expected), ("film.mp4", "x")]
        lists = write_table(place / "lists/t.csv", ("path", "label"), *table)
        before = snapshot(place, but=out.parent)
        traps = [Trap(neighbour), Trap(place / "secret.avi"), Trap(place / "videosx/a.avi")]
        code, said = run("extract", lists, out, "--root", folder, *DIS)
        assert not any(trap.sprung() for trap in traps)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert code == ExitCode.REFUSED, said
    assert snapshot(place, but=out.parent) == before
    rows = rows_in_force(read_commits(LocalStore(out)))
    assert rows.pop("film.mp4").verdict is Verdict.OK
    assert all(row.reason for row in rows.values())
    assert Counter(row.verdict for row in rows.values()) == Counter(expected.values())
    return len(rows)


# --- pipeline files ---

PIPELINES = [
    "output: !!python/object/apply:os.system ['touch pwned']",
    "output: !!python/object/new:os.system ['touch pwned']",
    "output: !!python/name:os.system",
    "output: !!python/module:os",
    "!!python/object/apply:os.mkdir [pwned]: {}",
    "output: &a [*a]",
    "source: &a\n  path: *a",
    "[" * 5000,
    "video:\n" + "\n".join(f"  - &a{k} [{', '.join([f'*a{k - 1}'] * 10) if k else 'lol'}]" for k in range(12)),
    'output: "a\\0b"',
]


def pipelines(run: Run, folder: Path) -> int:
    file = folder / "pipeline.yaml"
    for text in PIPELINES:
        file.write_text(text)
        code, said = run("extract", "-c", file)
        assert code == ExitCode.USAGE and str(file) in said and len(said) < 1000, (text[:80], said)
        assert [path.name for path in folder.iterdir()] == [file.name]
    return len(PIPELINES)


# --- datasets from elsewhere: forged records, with checksums that are right, and links ---

PLAN, COMMIT = layout.plan_key(0), layout.commit_key(0, 0)


def unfinished(folder: Path) -> Path:
    """A dataset of two videos, the first of which is committed, and beside it a film that is nobody's business."""
    settings = resolve(ExtractConfig(flow=FLOW, storage=StorageConfig(rgb_short_side=32)))
    videos, out = write_clips(folder / "videos")[1:3], folder / "out.zarr"
    shutil.copy(folder / "videos" / videos[0].id, folder / "secret.avi")
    extract(out, plan_more(out, folder / "videos", videos, settings=settings, per_shard=1), [0])
    return out


def forge(out: Path, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((out / key).read_bytes())
    del tree["sha256"]
    change(tree)
    (out / key).write_bytes(seal(tree))


def video(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["shards"][1]["videos"][0].update(changes)


def blocks(*run: object) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree["shards"][1].update(blocks=dict.fromkeys(tree["shards"][1]["blocks"], run))


PLANS = {
    "a video above the source": video(id="../secret.avi"),
    "a video below and above": video(id="left/../../secret.avi"),
    "an absolute video": video(id="/etc/passwd"),
    "a null byte": video(id="a\0.avi"),
    "no name": video(id=5),
    "no splits": video(splits=["train"]),
    "blocks that are none": blocks("a", 1),
    "blocks before all": blocks(-5, 1),
    "half a block": blocks(0.5, 1),
    "no number of fields": lambda tree: tree["shards"][1].update(fields="x"),
    "a root that is none": lambda tree: tree.update(root=5),
    "ends that are none": lambda tree: tree.update(ends=[1]),
}

FILES = ["../../x", "/etc/passwd", "flow_48x64/c/0/../../../../x", "zarr.json", "flow_48x64/c/-1/0/0/0", "", "a\0b"]


def forged_plans(run: Run, folder: Path) -> int:
    base = unfinished(folder)
    for name, change in PLANS.items():
        out = Path(shutil.copytree(base, folder / "forged" / "out.zarr"))
        forge(out, PLAN, change)
        before, trap = snapshot(folder, but=out), Trap(folder / "secret.avi")
        code, said = run("extract", folder / "videos", out, *DIS, "--executor", "batch", "--task", "0/1")
        assert code == ExitCode.REFUSED and PLAN in said, (name, code, said)
        assert not trap.sprung() and snapshot(folder, but=out) == before, name
        shutil.rmtree(folder / "forged")
    return len(PLANS)


def forged_commits(run: Run, folder: Path) -> int:
    base = unfinished(folder)
    for key in FILES:
        out = Path(shutil.copytree(base, folder / "forged" / "out.zarr"))
        forge(out, COMMIT, lambda tree, key=key: tree["files"][0].update(key=key))
        before = snapshot(folder, but=out)
        for command in (("verify", out), ("status", out), ("extract", folder / "videos", out, *DIS, "--extend")):
            code, said = run(*command)
            assert code == ExitCode.REFUSED and COMMIT in said, (key, command[0], code, said)
        assert snapshot(folder, but=out) == before, key
        shutil.rmtree(folder / "forged")
    return len(FILES)


def links(run: Run, folder: Path) -> int:
    """The scratch folder leads to somebody's files, which are old enough to look like litter."""
    out = unfinished(folder)
    precious = folder / "home" / "letters" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("Dear ...")
    for path in (precious, precious.parent):
        os.utime(path, (1, 1))
    shutil.rmtree(out / ".flowprep/tmp")
    (out / ".flowprep/tmp").symlink_to(folder / "home")
    run("extract", folder / "videos", out, *DIS, "--extend")
    assert precious.exists()
    run("verify", out, "--gc", "--older-than", "0")
    assert precious.exists()
    return 1


# --- what else is read ---

SCHEDULERS = {
    "": ExitCode.USAGE,
    "not JSON": ExitCode.USAGE,
    "[" * 100_000: ExitCode.USAGE,
    '["tcp://127.0.0.1:8786"]': ExitCode.USAGE,
    '{"address": 8786}': ExitCode.USAGE,
    '{"address": "inproc://127.0.0.1/1"}': ExitCode.USAGE,
    '{"address": "file:///etc/passwd"}': ExitCode.USAGE,
    '{"address": "tcp://127.0.0.1:1@198.51.100.1:8786"}': ExitCode.USAGE,
    '{"address": "tcp://127.0.0.1:99999"}': ExitCode.USAGE,
    '{"address": "tcp://127.0.0.1:1\\nx:2"}': ExitCode.USAGE,
    '{"address": "tcp://198.51.100.1:8786"}': ExitCode.REFUSED,
    '{"address": "198.51.100.1:8786"}': ExitCode.REFUSED,
    '{"address": "tcp://127.0.0.1.example.org:8786"}': ExitCode.REFUSED,
    '{"address": "tcp://localhost.example.org:8786"}': ExitCode.REFUSED,
    '{"address": "tcp://0.0.0.0:8786"}': ExitCode.REFUSED,
    '{"address": "tcp://[::]:8786"}': ExitCode.REFUSED,
    '{"address": "tcp://[::ffff:198.51.100.1]:8786"}': ExitCode.REFUSED,
}


def schedulers(run: Run, folder: Path) -> int:
    (folder / "videos").mkdir()
    write_clip(folder / "videos/film.mp4", numbered(4))
    file = folder / "scheduler.json"
    for text, expected in SCHEDULERS.items():
        file.write_text(text)
        code, said = run("extract", folder / "videos", folder / "out.zarr", *DIS, "--scheduler-file", file)
        assert code == expected and len(said) < 1000, (text[:80], code, said)
        assert not (folder / "out.zarr").exists()
    return len(SCHEDULERS)


class Pwned:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def pickles(_run: Run, folder: Path) -> int:
    """What a decoder that was taken over could hand to its parent."""
    array = ArrayName("flow", 48, 64)
    hostile = np.array([Pwned(folder / "pwned")], dtype=object)
    np.savez(folder / f"{array}.npz", lengths=hostile)
    with pytest.raises(ValueError, match="allow_pickle"):
        read_row_file(folder, array)
    (folder / f"{array}.npz").write_bytes(pickle.dumps(Pwned(folder / "pwned")))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_row_file(folder, array)
    assert not (folder / "pwned").exists()
    return 2


# --- tests ---

GROUPS = [pipelines, forged_plans, forged_commits, links, schedulers, pickles]


def test_a_list_full_of_hostile_names_and_files(run: Run, request: pytest.FixtureRequest) -> None:
    assert sources(run, request.getfixturevalue("root").parent) >= 80


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_group(run: Run, tmp_path: Path, group: Callable[[Run, Path], int]) -> None:
    assert group(run, tmp_path)


@pytest.mark.system
def test_hostile_inputs(
    run: Run,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    figure: Callable[[str, str], None],
) -> None:
    refused = sources(run, request.getfixturevalue("root").parent)
    refused += sum(group(run, tmp_path_factory.mktemp(group.__name__)) for group in GROUPS)
    figure("R16", f"{refused} of {refused} refused, each with its reason; 0 files outside opened or changed")
