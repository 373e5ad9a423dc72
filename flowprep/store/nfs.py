"""What NFS may answer that a disk does not."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

PAUSES = (0.0, 0.05, 0.2, 0.5)  # s before each new try

T = TypeVar("T")


def patiently(call: Callable[[], T]) -> T:
    """The result of ``call``, asked again while its file handle is stale: its name led to a file that is gone."""
    for pause in PAUSES:
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause)
    return call()
