"""Files of torch.save, read without running what they hold."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from flowprep.errors import RefusedError, UsageError


def read_torch(path: Path, advice: str = "", *, old: bool = False) -> Any:
    """What a file of torch.save holds: tensors, on the CPU, and plain values. Nothing in it is run.

    old: also of the format before PyTorch 1.6, which has no checksums.

    Raises UsageError where it cannot be opened, RefusedError, with ``advice``, where it is damaged or holds anything
    else.
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):
            _check_members(path)
        elif not old:
            raise ValueError("no ZIP archive")
        with warnings.catch_warnings(action="ignore"):  # of pickles, before they are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except RefusedError:
        raise
    except Exception as error:  # the formats that torch reads have errors of many kinds
        what = f"{path}: no file of weights; it is damaged, or holds objects whose reading would run code. {advice}"
        raise RefusedError(what.strip()) from error


def check_file(path: Path) -> None:
    """Raises UsageError where there is no file to be read; nothing else is opened, which may never end."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: cannot be read (not a file).")
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None


def _check_members(path: Path) -> None:
    """Raises RefusedError for what torch does not check: that all is as it was written, and takes no more memory.

    torch.save never compresses: where something is, a small file could fill the memory.
    """
    with zipfile.ZipFile(path) as file:
        if any(item.compress_type != zipfile.ZIP_STORED for item in file.infolist()):
            raise RefusedError(f"{path}: compressed within; save it with torch.save as it is.")
        if (name := file.testzip()) is not None:
            raise RefusedError(f"{path}: damaged: {name} in it is not what was written.")
