"""The lock under which a shard is published: one holder at a time, and gone with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from flowprep.store.blobs import LocalStore


def test_only_one_at_a_time_is_in_an_exclusive_place(tmp_path: Path) -> None:
    """Many threads, each with a lock of its own open file, count up without losing one."""
    store, counter = LocalStore(tmp_path), tmp_path / "counter"
    counter.write_text("0")

    def count_up() -> None:
        for _ in range(25):
            with store.exclusive("here"):
                counter.write_text(str(int(counter.read_text()) + 1))

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "150"
    assert not list((tmp_path / ".flowprep/locks").iterdir())


def test_a_killed_holder_leaves_the_lock_free(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from flowprep.store.blobs import LocalStore\n"
        "with LocalStore(Path(sys.argv[1])).exclusive('here'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False).returncode == -9
    with LocalStore(tmp_path).exclusive("here"):
        pass
    assert not list((tmp_path / ".flowprep/locks").iterdir())
