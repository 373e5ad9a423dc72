"""log.jsonl, what a run has written down of itself, one JSON object a line; read without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowprep.errors import RefusedError
from flowprep.store.blobs import store_error

LOG = "log.jsonl"  # in the folder of a run
MOST_BYTES = 2**30  # of four million lines


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl; none where there is no such file. What a killed process left unfinished is left out.

    Raises RefusedError for what is no file, which may never end, or far too large for a log.
    """
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):
            raise RefusedError(f"{path}: not a log: no file, or too large. Move it away.")
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error(path, error) from error
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):  # RecursionError: brackets, too deep for any entry
            continue
        if isinstance(line, dict) and isinstance(line.get("iteration"), int):
            lines.append(line)
    return lines
