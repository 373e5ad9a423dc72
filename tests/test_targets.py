"""Where a command will write is looked at before it works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowprep.cli.running import check_target
from flowprep.errors import UsageError


def test_files_links_and_new_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("to a file").symlink_to("file")
    Path("to a new one").symlink_to(tmp_path / "new")
    for name in ("file", "new", "to a file", "to a new one", Path("file").absolute()):
        check_target("-o", name)
    check_target("-o", "folder/below/file", new_folder=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "to a file", "to a new one"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "a folder"),
        ("new/", "a folder; name a file"),
        ("folder", "a folder; name a file"),
        ("to the folder", "a folder; name a file"),
        ("nowhere/file", "there is no such folder"),
        ("to nowhere", "there is no such folder"),
        ("pipe", "not a file"),
        ("/dev/full", "not a file"),
        ("to a device", "not a file"),
        ("file/below", "is no folder|no file can"),
        ("n" * 300, "no file can have that name"),
        ("a\0b", "no file can have that name"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")
    for link, target in (("to the folder", "folder"), ("to nowhere", "nowhere/file"), ("to a device", "/dev/null")):
        Path(link).symlink_to(target)
    with pytest.raises(UsageError, match=f"--json .*({words})"):
        check_target("--json", name)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("redirected", [True, False])
def test_what_is_printed_is_not_replaced(tmp_path: Path, stream: str, redirected: bool) -> None:
    target = tmp_path / "out.txt"
    streams = {stream: target.open("w")} if redirected else {stream: subprocess.PIPE}
    for name in (f"/dev/{stream}", target) if redirected else (f"/dev/{stream}",):
        code = (
            "import sys\nfrom flowprep.cli.running import check_target, UsageError\n"
            "try: check_target('-o', sys.argv[1])\nexcept UsageError: sys.exit(9)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(name)], **streams, check=False).returncode == 9  # type: ignore[call-overload]
