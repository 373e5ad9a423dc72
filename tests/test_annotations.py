"""The readers of folders and of users' own lists, and how a reader is chosen."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowprep.annotations import LAYOUTS, Source, read_source
from flowprep.annotations.paths import printable
from flowprep.errors import UsageError
from flowprep.types import Video


def touch(root: Path, *paths: str) -> Path:
    """Files of five bytes."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"12345")
    return root


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return file


def by_id(source: Source) -> dict[str, Video]:
    ids = [video.id for video in source.videos]
    assert ids == sorted(set(ids)), "ids are unique and sorted"
    return {video.id: video for video in source.videos}


def labels(source: Source) -> dict[str, str]:
    return {video.id: video.label for video in source.videos}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------------------------------------- folder


def test_folder_labels_are_first_components(root: Path) -> None:
    touch(
        root, "run/a.avi", "run/deep/b.MP4", "-dash.mkv", "jump/c d.WebM", "jump/notes.txt", "mp4", ".x.avi", ".y/z.avi"
    )
    source = read_source(root)
    assert labels(source) == {"run/a.avi": "run", "run/deep/b.MP4": "run", "-dash.mkv": "", "jump/c d.WebM": "jump"}
    assert {video.size for video in source.videos} == {5}
    assert source.ignored == ("jump/notes.txt", "mp4")
    assert source.layout == "folder" and source.root == root.resolve()


def test_folder_without_videos_names_folder_and_suffixes(root: Path) -> None:
    touch(root, "a.txt", ".hidden.avi")
    with pytest.raises(UsageError, match=r"videos.*avi.*mp4.*y4m"):
        read_source(root)


def test_folder_follows_links_that_stay_below_the_root(root: Path) -> None:
    touch(root, "pool/x/a.avi")
    (root / "train").symlink_to("pool")
    (root / "absolute.avi").symlink_to(root / "pool/x/a.avi")
    (root / "through_the_parent.avi").symlink_to("../videos/pool/x/a.avi")
    (root / "dangling.avi").symlink_to("pool/none.avi")
    found = by_id(read_source(root))
    assert {name: video.size for name, video in found.items()} == {
        "pool/x/a.avi": 5,
        "train/x/a.avi": 5,
        "absolute.avi": 5,
        "through_the_parent.avi": 5,
        "dangling.avi": -1,
    }
    assert not any(video.refused for video in found.values())
    assert found["train/x/a.avi"].label == "train"


def test_folder_links_written_with_the_users_spelling_of_the_root_are_followed(root: Path, tmp_path: Path) -> None:
    touch(root, "a/b.avi")
    alias = tmp_path / "alias"
    alias.symlink_to(root)
    (root / "c.avi").symlink_to(alias / "a/b.avi")
    assert by_id(read_source(alias))["c.avi"].size == 5
    listed = write(tmp_path / "list.txt", f"{alias}/a/b.avi 1\n{root}/c.avi 2\n")
    assert labels(read_source(listed, root=alias)) == {"a/b.avi": "1", "c.avi": "2"}


def test_folder_walk_ends_where_links_lead_back(root: Path) -> None:
    touch(root, "a/v.avi", "b/w.avi")
    (root / "a/up").symlink_to("..")
    (root / "a/self").symlink_to(".")
    (root / "a/to_b").symlink_to("../b")
    (root / "b/to_a").symlink_to("../a")
    (root / "ring.avi").symlink_to("ring.avi")
    found = by_id(read_source(root))
    assert {name for name, video in found.items() if not video.refused} == {
        "a/v.avi",
        "a/to_b/w.avi",
        "b/w.avi",
        "b/to_a/v.avi",
    }
    assert "circle" in found["ring.avi"].refused
    assert "leads back" in found["a/up"].refused and "leads back" in found["a/self"].refused
    assert "inside a linked folder" in found["a/to_b/to_a"].refused


def test_folder_refuses_what_is_no_regular_file_or_cannot_be_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(root, "a.avi", "locked/b.avi")
    os.mkfifo(root / "pipe.mp4")
    scandir = os.scandir

    def deny(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("locked/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", deny)
    found = by_id(read_source(root))
    assert found["pipe.mp4"].refused == "not a regular file" and found["pipe.mp4"].size == -1
    assert "Permission denied" in found["locked"].refused
    assert not found["a.avi"].refused


@pytest.mark.parametrize("name", [b"\xff\xfe.avi", b"a\nb.avi", b"bell\x07.mp4", b"caf\xe9/x.avi", b"\xe2\x80\xa8.avi"])
def test_folder_refuses_names_that_are_no_printable_text(root: Path, name: bytes) -> None:
    touch(root, "good.avi", os.fsdecode(name), printable(os.fsdecode(name)))
    source = read_source(root)
    assert [video.id for video in source.videos if not video.refused] == sorted(
        ["good.avi", printable(os.fsdecode(name))]
    )
    (bad,) = (video for video in by_id(source).values() if video.refused)
    assert bad.size == -1 and (bad.id + bad.label).isprintable()
    assert bad.id == f"{printable(os.fsdecode(name))} (2)", "numbered, as a good file has the escaped name"


# ---------------------------------------------------------------------------------------------------- lists

part_text = st.text(
    st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="/"), min_size=1, max_size=20
)
parts = part_text.map(lambda part: f"p{part}q")  # no blanks at the ends, no '#', no '..'
paths = st.lists(parts, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".avi")
words = parts.map(lambda word: word.replace(" ", "_"))


@given(videos=st.dictionaries(paths, st.just("") | words, min_size=1), end=st.sampled_from(["\n", "\r\n", " \t\r\n"]))
@settings(deadline=None, max_examples=50)
def test_list_of_lines_reads_back(videos: dict[str, str], end: str) -> None:
    text = f"# a comment{end}{end}" + "".join(f"{path} {label}{end}" for path, label in videos.items())
    with tempfile.TemporaryDirectory() as folder:
        for mark in ("", "\ufeff"):
            file = write(Path(folder, "list.txt"), mark + text)
            assert labels(read_source(file)) == videos


@given(videos=st.dictionaries(paths, part_text.map(str.strip), min_size=1), tabs=st.booleans())
@settings(deadline=None, max_examples=50)
def test_table_reads_back(videos: dict[str, str], tabs: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "list.tsv" if tabs else "list.csv")
        with file.open("w", encoding="utf-8-sig", newline="") as text:
            rows = csv.writer(text, delimiter="\t" if tabs else ",")
            rows.writerow([" Label", "extra", "PATH "])
            rows.writerows((label, "1", path) for path, label in videos.items())
        assert labels(read_source(file)) == videos


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("l.txt", "a.avi run\nb c.avi\td\n", {"a.avi": "run", "b c.avi": "d"}),
        ("l.txt", "my film.avi\n", {"my film.avi": ""}),
        ("l.txt", "./a//b.avi 3", {"a/b.avi": "3"}),
        ("l.txt", "#x.avi run\n#20_Rhythm.avi clap\n#\n#word\n", {"#20_Rhythm.avi": "clap"}),
        ("l.csv", "a.mp4 0\nmy film.mp4 12\n", {"a.mp4": "0", "my film.mp4": "12"}),
        ("l.csv", "# made by hand\na.mp4 0\n", {"a.mp4": "0"}),
        ("l.CSV", '"path","label"\r\n"a, b.mp4","x y"\r\n\r\n', {"a, b.mp4": "x y"}),
        ("l.tsv", "label\tpath\nrun\ta b.mp4\n", {"a b.mp4": "run"}),
    ],
)
def test_list_shapes(root: Path, name: str, text: str, expected: dict[str, str]) -> None:
    touch(root, "#20_Rhythm.avi")
    assert labels(read_source(write(root / name, text))) == expected


def test_list_splits_sizes_and_root(root: Path, tmp_path: Path) -> None:
    touch(root, "run/a.avi", "run/b.avi")
    file = write(
        tmp_path / "list.csv", "path,split1,split2,split3\nrun/a.avi,train,Validation,\nrun/gone.avi,,test,test\n"
    )
    found = by_id(read_source(file, root=root))
    assert found["run/a.avi"] == Video("run/a.avi", "", ("train", "val", ""), 5)
    assert found["run/gone.avi"] == Video("run/gone.avi", "", ("", "test", "test"), -1)
    file = write(tmp_path / "one.csv", f"path,split\n{root}/run/b.avi,validate\n")
    assert read_source(file, root=root).videos == (Video("run/b.avi", "", ("val", "", ""), 5),)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.txt", "a.avi 1\nb.avi 1\n./a.avi 2\n", r"line 3: a\.avi was named before, in .*line 1"),
        ("l.txt", b"a.avi 1\nb.avi 2\n\xff.avi 3\n", "line 3: not UTF-8"),
        ("l.txt", "path".encode("utf-16"), "line 1: not UTF-8"),
        ("l.csv", b"path,label\na.avi,1\n\xe9.avi,2\n", "line 3: not UTF-8"),
        ("l.txt", "\n# nothing\n", "names no video"),
        ("l.csv", "", "names no video"),
        ("l.csv", "path,label\n", "names no video"),
        ("l.csv", "path,label\na.avi\n", "line 2: 1 fields where the header has 2"),
        ("l.csv", 'path,label\n"a.avi,1\n', "line 2: unexpected end of data"),
        ("l.csv", f"path\n{'a' * 200_000}\n", "line 2: field larger"),
        ("l.csv", "file,label\na.avi,1\n", "line 1: neither a header"),
        ("l.csv", "a.avi,1\n", "line 1: neither a header"),
        ("l.csv", "path,split\na.avi,trian\n", "line 2: 'trian' is not a part"),
        ("l.csv", "path,split,split1\na.avi,train,test\n", "mean the same"),
        ("film.mp4", "not a list", "is a video, not a list"),
    ],
)
def test_list_errors_say_where(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=message):
        read_source(tmp_path / name)


# ---------------------------------------------------------------------------------------------------- which reader


def test_arguments_that_do_not_fit(root: Path, tmp_path: Path) -> None:
    touch(root, "a.avi")
    file, ucf = write(tmp_path / "list.txt", "a.avi 1"), write(tmp_path / "ucf/classInd.txt", "1 x").parent
    write(ucf / "trainlist01.txt", "x/a.avi 1")
    write(ucf / "testlist01.txt", "")
    cases: dict[str, dict[str, Any]] = {
        "no layout 'ucf'.*'ucf101'": {"path": root, "layout": "ucf"},
        "needs the annotations.*classInd": {"path": root, "layout": "ucf101"},
        "does not fit the layout hmdb51": {"path": root, "annotations": ucf, "layout": "hmdb51"},
        "list.txt is not a folder. Give the folder that holds the off": {"path": root, "annotations": file},
        "list.txt is not a folder. Give the folder that holds the vid": {"path": file, "annotations": ucf},
        "takes no annotations": {"path": root, "annotations": ucf, "layout": "folder"},
        "is a folder, not a list": {"path": root, "layout": "filelist"},
        "list.txt is not a folder": {"path": file, "layout": "folder"},
        "A root is for list files": {"path": root, "root": root},
        "none: No such file": {"path": root / "none"},
        "--root: .*gone: No such file": {"path": file, "root": root / "gone"},
        "--annotations: .*lists: No such file.*official lists": {"path": root, "annotations": root / "lists"},
    }
    for message, arguments in cases.items():
        with pytest.raises(UsageError, match=message):
            read_source(**arguments)


def test_each_layout_can_be_asked_for(root: Path, tmp_path: Path) -> None:
    touch(root, "a.avi")
    files = {
        "filelist": {"list.txt": "a.avi 1"},
        "ucf101": {"classInd.txt": "1 x", "trainlist01.txt": "x/a.avi 1", "testlist01.txt": ""},
        "hmdb51": {"x_test_split1.txt": "a.avi 1"},
        "kinetics": {"train.csv": "youtube_id,time_start,time_end\na,1,2\n"},
    }
    for layout in LAYOUTS[1:]:
        for name, text in files.get(layout, {}).items():
            write(tmp_path / layout / name, text)
        path = tmp_path / "filelist/list.txt" if layout == "filelist" else root
        annotations = tmp_path / layout if layout in ("ucf101", "hmdb51", "kinetics") else None
        asked = read_source(path, annotations, layout)
        assert asked.layout == layout and asked == read_source(path, annotations)
