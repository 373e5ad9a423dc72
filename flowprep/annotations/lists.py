"""Text lists and tables, read strictly: whatever cannot be understood is reported with its file and line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from flowprep.errors import UsageError

_BLANKS = " \t\r"  # str.strip() would also eat characters that a file name may hold
_PARTS = {
    "": "",
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is not blank, stripped. Raises UsageError as :func:`read_text` does."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line := line.strip(_BLANKS):
            yield place(file, number), line


def last_field(line: str) -> tuple[str, str]:
    """Split a stripped line at its last blanks: ("some path", "label"), or (line, "") if it has none."""
    cut = max(line.rfind(" "), line.rfind("\t"))
    return (line[:cut].rstrip(_BLANKS), line[cut + 1 :]) if cut >= 0 else (line, "")


def table(file: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(where, row) of every row below the header; the names of the columns are in lower case.

    Raises UsageError for text that is not UTF-8, broken quotes, and rows that are longer or shorter than the header.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    try:
        for row in reader:
            fields = [field.strip(_BLANKS) for field in row]
            where = place(file, reader.line_num)
            if not any(fields):
                continue
            if not names:
                names = [field.lower() for field in fields]
            elif len(fields) != len(names):
                raise UsageError(f"{where}: {len(fields)} fields where the header has {len(names)}. Correct this row.")
            else:
                yield where, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UsageError(f"{place(file, reader.line_num)}: {error}. Correct this row.") from error


def header(file: Path, delimiter: str) -> list[str]:
    """Names of the columns of a table, in lower case, from its first line; [] for an empty file."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            first = text.readline(io.DEFAULT_BUFFER_SIZE)
    except OSError as error:
        raise unreadable(file, error) from error
    return [name.strip(_BLANKS).lower() for name in next(csv.reader([first.strip()], delimiter=delimiter), [])]


def read_text(file: Path) -> str:
    """The text of a list, without a byte-order mark. Raises UsageError if it cannot be read or is not UTF-8."""
    try:
        data = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise unreadable(file, error) from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{place(file, line)}: not UTF-8 text. Save the list as UTF-8.") from error


def part(text: str, where: str) -> str:
    """The name of a part of a split: "train", "val", "test" or "". Raises UsageError for any other word."""
    name = _PARTS.get(text.lower())
    if name is None:
        raise UsageError(f"{where}: {text!r} is not a part of a split. Known: train, val, test, or nothing.")
    return name


def place(file: Path, number: int) -> str:
    """Where something was found, for messages."""
    return f"{file}, line {number}"


def unreadable(file: Path, error: OSError) -> UsageError:
    """The error for a list that the system would not give."""
    return UsageError(f"{file}: {error.strerror}. Give a text file that can be read.")
