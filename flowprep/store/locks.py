"""Lock files: there while somebody holds them, and free when their holder is gone, however it ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

from flowprep.store.nfs import patiently

POLL = 0.1  # s between two tries to get a lock


def locked(path: Path, waiting: Callable[[], None]) -> int:
    """Descriptor of the lock file ``path``, locked; its last holder removed it, so it may have to be made anew.

    ``waiting`` is called again and again while somebody else holds it; what it raises ends the wait.
    """
    while True:
        handle = patiently(lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            while not _taken(handle):
                waiting()
                time.sleep(POLL)
        except BaseException:
            os.close(handle)
            raise
        try:
            if os.path.samestat(os.fstat(handle), patiently(path.stat)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _taken(handle: int) -> bool:
    """Whether the lock is ours now; on file systems without locks it always is."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_free_lock(path: Path) -> bool:
    """Remove a lock file that nobody holds; False if somebody does. On file systems without locks it stays, too."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), path.stat()):
            return False
        path.unlink()
    except OSError:
        return False
    finally:
        os.close(handle)
    return True
