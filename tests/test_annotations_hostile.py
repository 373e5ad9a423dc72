"""Names that are meant to do harm: each costs its own video, none is looked at outside the source folder.

Every look at the disk is recorded while the readers work, and afterwards resolved to the place that it really reached.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.annotations import read_source
from flowprep.annotations.paths import Root, printable
from flowprep.errors import VideoError
from flowprep.types import Video

Look = tuple[str, str]  # (system call, path)


@contextmanager
def watch() -> Iterator[list[Look]]:
    """Record every look at the disk."""
    seen: list[Look] = []

    def recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(path: Any, *arguments: Any, **options: Any) -> Any:
            follows = options.get("follow_symlinks", True)
            seen.append((name if follows else "lstat", os.fspath(path)))
            return call(path, *arguments, **options)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for name in ("stat", "lstat", "readlink", "scandir", "listdir", "open"):
            patch.setattr(os, name, recorded(name, getattr(os, name)))
        patch.setattr("io.open", recorded("open", open))
        yield seen


def outside(seen: list[Look], root: Path) -> list[Look]:
    """The looks at anything that is neither below the root, nor the root, nor a folder that the root lies in."""

    def reached(call: str, path: str) -> Path:
        if call in ("lstat", "readlink"):  # these do not follow the last part
            return Path(path).parent.resolve() / Path(path).name
        return Path(path).resolve()

    return [look for look in seen if not (reached(*look).is_relative_to(root) or root.is_relative_to(reached(*look)))]


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"12345")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two good videos, among links that lead where nobody may look."""
    folder = tmp_path / "videos"
    touch(folder, "wave/good.avi", "wave/good_000001_000002.mp4")
    touch(tmp_path, "secret.avi", "videosx/a.avi")
    for name, target in {
        "out.avi": "../secret.avi",
        "out": str(tmp_path),
        "chain.avi": "chain",
        "chain": "wave/../out.avi",
        "up": "wave/../..",
        "passwd.avi": "/etc/passwd",
        "far": "/nowhere/at/all",
        "beside": "../videosx",
        "ring.avi": "ring.avi",
        "ring_a": "ring_b",
        "ring_b": "ring_a",
    }.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.avi")
    (folder / "folder.avi").mkdir()
    return folder


OUTSIDE = "^the path lies outside the source folder$"
DOTS = r"^'\.\.' in the path$"
CONTROL = "^control characters in the path$"
LONG = "^(a part of )?the path is longer than [0-9]+ bytes$"
LINK = "^a symbolic link leaves the source folder$"
RING = "^symbolic links lead in a circle$"
NO_FILE = "^not a regular file$"
NAMELESS = "^the path names no file$"

OF_TEXT = {  # refused by their text alone
    OUTSIDE: [
        *("/etc/passwd", "//etc/passwd", "/", "/../etc/passwd", "/dev/zero", "/proc/self/mem"),
        *("{parent}/secret.avi", "{parent}", "{root}x/a.avi", "/{root}/wave/good.avi"),
    ],
    DOTS: [
        *("../secret.avi", "..", "../..", "a/../../secret.avi", "wave/../wave/good.avi", "a/..", "./..", "..//x"),
        *("../videos/wave/good.avi", "{root}/../secret.avi", "{root}/..", "../" * 60 + "etc/passwd", "out/../x.avi"),
    ],
    CONTROL: [
        *(f"a{character}b.avi" for character in "\0\a\b\t\v\f\r\n\x1b\x1c\x7f\x80\x85\u2028\u2029"),
        *("\x1b[2J\x1b]0;x\x07.avi", "wave/good.avi\0.txt", "\0", "../x\0.avi", "/etc/passwd\0"),
    ],
    LONG: [
        *(
            "x" * 256,
            "x" * 10_000 + ".avi",
            "x" * 256 + "/y.avi",
            "wave/" + "é" * 128,
            "😀" * 64,
            "d/" * 2100 + "a.avi",
        ),
    ],
}
OF_DISK = {  # refused by what lies on the disk
    LINK: ["out.avi", "out/secret.avi", "chain.avi", "up/secret.avi", "passwd.avi", "far/x.avi", "beside/a.avi"],
    RING: ["ring.avi", "ring_a/x.avi"],
    NO_FILE: ["pipe.avi", "folder.avi", "wave"],
    NAMELESS: [".", "././"],
}


def pairs(names: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, reason) for reason, group in names.items() for name in group]


def check(path: Path, annotations: Path | None, root: Path, good: str, reason: str) -> None:
    """Read a source in which all is refused for ``reason``, but for the video ``good``."""
    with watch() as seen:
        source = read_source(path, annotations, root=root if path.is_file() else None)
    found = {video.id: video for video in source.videos}
    assert len(found) == len(source.videos) > 1
    kept = found.pop(good)
    assert (kept.label, kept.size, kept.refused) == ("wave", 5, "")
    for video in found.values():
        assert re.search(reason, video.refused)
        assert video.size == -1 and (video.id + video.label).isprintable() and len(video.id) < 265
    looks = [look for look in seen if "lists" not in Path(look[1]).parts]
    assert any(Path(look[1]).is_relative_to(root / "wave") for look in looks), "the good video was looked at"
    assert outside(looks, root) == []


def write_table(file: Path, *rows: tuple[str, ...]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows(rows)
    return file


def write_lists(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def filled(name: str, root: Path) -> str:
    return name.replace("{root}", str(root)).replace("{parent}", str(root.parent))


@pytest.mark.parametrize(("name", "reason"), pairs(OF_TEXT))
def test_hostile_names_are_refused_by_every_reader_of_lists(root: Path, name: str, reason: str) -> None:
    name, lists = filled(name, root), root.parent / "lists"
    table = write_table(lists / "t.csv", ("path", "label"), (name, name), (name, "x"), ("wave/good.avi", "wave"))
    check(table, None, root, "wave/good.avi", reason)
    write_table(
        lists / "kinetics/train.csv",
        ("label", "youtube_id", "time_start", "time_end"),
        (name, "abc", "1", "2"),
        ("wave", "good", "1", "2"),
    )
    check(root, lists / "kinetics", root, "wave/good_000001_000002.mp4", reason)
    if "\n" in name:
        return  # the others have one name a line
    check(write_lists(lists / "f", f=f"{name} x\nwave/good.avi wave") / "f.txt", None, root, "wave/good.avi", reason)
    ucf = write_lists(lists / "u", classInd="1 wave", trainlist01=f"{name} 1\nwave/good.avi 1", testlist01="")
    check(root, ucf, root, "wave/good.avi", reason)
    hmdb = write_lists(lists / "h", wave_test_split1=f"{name} 1 \ngood.avi 2 ")
    check(root, hmdb, root, "wave/good.avi", reason)


@pytest.mark.parametrize(("name", "reason"), pairs(OF_DISK))
def test_links_that_leave_the_root_are_refused_and_not_followed(root: Path, name: str, reason: str) -> None:
    file = write_lists(root.parent / "lists", f=f"{name} x\nwave/good.avi wave\n") / "f.txt"
    check(file, None, root, "wave/good.avi", reason)


def test_there_are_many_hostile_names() -> None:
    assert len(pairs(OF_TEXT) + pairs(OF_DISK)) >= 50


def test_folder_reader_refuses_links_and_does_not_follow_them(root: Path) -> None:
    with watch() as seen:
        found = {video.id: video.refused for video in read_source(root).videos}
    for name, reason in {
        **dict.fromkeys(["out.avi", "out", "chain.avi", "chain", "up", "passwd.avi", "far", "beside"], LINK),
        **dict.fromkeys(["ring.avi", "ring_a", "ring_b"], RING),
        "pipe.avi": NO_FILE,
    }.items():
        assert re.search(reason, found.pop(name))
    assert found == {"wave/good.avi": "", "wave/good_000001_000002.mp4": ""}
    assert outside(seen, root) == []


def test_the_watch_would_see_a_link_being_followed(root: Path) -> None:
    with watch() as seen:
        (root / "out.avi").stat()
        (root / "up/secret.avi").lstat()
        (root / "wave/good.avi").stat()
    assert outside(seen, root) == seen[:2]


def test_readers_look_once_at_each_file_and_never_at_names_of_lists(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    touch(videos, *(f"c{c}/{i}_000001_000002.mp4" for c in range(4) for i in range(50)))
    rows = [("x", str(i), "1", "2") for i in range(1000)]
    write_table(tmp_path / "lists/train.csv", ("label", "youtube_id", "time_start", "time_end"), *rows)
    for given_lists in (None, tmp_path / "lists"):
        with watch() as seen:
            assert sum(video.size == 5 for video in read_source(videos, given_lists).videos) == (
                50 if given_lists else 200
            )
        assert Counter(call for call, path in seen if f"{path}/".startswith(f"{videos}/c")) == {
            "lstat": 200,
            "scandir": 4,
        }


# Names that are built of what matters to paths, so that hypothesis reaches the corners.
segments = st.sampled_from(["..", ".", "", "a", "b", "link", "{root}", "{parent}", "~", "\0", "x" * 256]) | st.text()
names = st.lists(segments, max_size=6).map("/".join)


@given(names)
@settings(deadline=None)
def test_a_path_below_the_root_is_below_the_root(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        root = Root(home)
        try:
            path = root.below(filled(name, home))
        except VideoError:
            return
        assert not set(path.split("/")) & {"", ".", ".."}
        assert root.below(path) == root.below(f"{home}/{path}") == path


@given(st.lists(st.sampled_from(["a", "b", "c", "..", ".", "{root}", "{parent}", "/"]), min_size=1, max_size=4))
@settings(deadline=None)
def test_links_lead_where_the_system_says_or_are_refused(parts: list[str]) -> None:
    """Whatever the first of three links points to. That links within the root are followed is shown elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve() / "root"
        touch(home, "a/b/c", "b/a")
        (home / "c").symlink_to(filled("/".join(parts), home))
        (home / "a/c").symlink_to("../c/b")
        (home / "b/c").symlink_to("../a/c/a")
        for path in ("c", "c/a", "a/c", "b/c", "a/c/../c", "a/b/c"):
            try:
                resolved = Root(home).resolve(path)
            except VideoError:
                continue
            assert Path(home, resolved) == Path(os.path.realpath(home / path))


@settings(deadline=None)
@given(st.text())
def test_printable(text: str) -> None:
    escaped = printable(text)
    assert len(escaped) <= 255 and not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", escaped)
    escaped.encode()  # no surrogates are left
    assert escaped == text or not text.isprintable() or len(text) > 255


def test_a_refused_video_never_takes_the_id_of_a_good_one(root: Path) -> None:
    rows = [("path",), ("a\tb.avi",), (r"a\tb.avi",), ("a\tb.avi",), (r"a\tb.avi (2)",)]
    source = read_source(write_table(root.parent / "lists/t.csv", *rows), root=root)
    assert {video.id: bool(video.refused) for video in source.videos} == {
        r"a\tb.avi": False,
        r"a\tb.avi (2)": False,
        r"a\tb.avi (3)": True,
        r"a\tb.avi (4)": True,
    }
    assert Video(r"a\tb.avi") in source.videos
