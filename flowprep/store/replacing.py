"""A file that changes as a whole: whatever happens, the old one or the new one is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from flowprep.errors import UsageError
from flowprep.store.blobs import flush, store_error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` at the end of the block, unless that is left by an error.

    A link stays, and leads to the new file. A folder that is missing is made. For one writer at a time. Raises
    UsageError where something else than a file is at ``path``, StoreError where the disk is full or fails.
    """
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    if (path.exists() or path.is_symlink()) and not path.is_file():  # a link that is left leads to itself
        raise UsageError(f"{path}: not a file, so that nothing is put in its place: give another name.")
    scratch = path.with_name(f".{path.name}.part")  # one name: what a killed process left is written over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
        flush(path.parent)
    except BaseException as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        # The writers of some libraries go on where the disk is full, and fail of something else then.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(error, Exception) and isinstance(cause, OSError):
            raise store_error(path, cause) from error
        raise
