"""Files of torch.save, read without running what they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from flowprep.errors import RefusedError, UsageError


def read_torch(path: Path) -> Any:
    """What a file of torch.save holds: tensors, on the CPU, and plain values. Nothing in it is run.

    Raises UsageError where it cannot be opened, RefusedError where it is damaged or holds anything else.
    """
    check_file(path)
    try:
        if zipfile.is_zipfile(path):
            _check_sizes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except RefusedError:
        raise
    except Exception as error:  # the formats that torch reads have errors of many kinds
        raise RefusedError(
            f"{path}: no file of weights; it is damaged, or holds objects whose reading would run code. "
            "Of a network saved whole, save the state_dict() instead."
        ) from error


def check_file(path: Path) -> None:
    """Raises UsageError where there is no file to be read."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from None


def _check_sizes(path: Path) -> None:
    """torch.save never compresses: where something is, a small file could fill the memory."""
    with zipfile.ZipFile(path) as file:
        if any(item.compress_type != zipfile.ZIP_STORED for item in file.infolist()):
            raise RefusedError(f"{path}: compressed within; save it with torch.save as it is.")
