"""HMDB-51: {class}_test_split{1,2,3}.txt (H. Kuehne et al., ICCV 2011).

A line is ``April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1``: a file name, and 0 (unused in this split), 1 (train) or
2 (test). The videos lie as CLASS/NAME or all in one folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from flowprep.annotations.lists import last_field, lines
from flowprep.annotations.matching import SplitLists, by_name, match
from flowprep.annotations.paths import Root, named
from flowprep.annotations.scan import Listing, scan
from flowprep.errors import UsageError
from flowprep.types import Video

FILES = "CLASS_test_split1.txt (HMDB-51)"
_NAME = re.compile(r"(.+)_test_split([123])\.txt")
_PARTS = {"0": "", "1": "train", "2": "test"}


def fits(annotations: Path) -> bool:
    """Whether a folder holds lists of HMDB-51."""
    return bool(_files(annotations))


def read(annotations: Path, root: Root) -> Listing:
    """Every video that a list names, those that no split uses included. Raises UsageError for lists that contradict."""
    disk = scan(root)
    return match(_listed(annotations, root), by_name(disk), disk)


def _listed(annotations: Path, root: Root) -> Iterator[tuple[str, Video]]:
    for label, files in _files(annotations).items():
        splits = SplitLists()
        for split, file in files.items():
            for where, line in lines(file):
                name, mark = last_field(line)
                if mark not in _PARTS:
                    raise UsageError(f"{where}: {line!r} does not end in 0 (unused), 1 (train) or 2 (test).")
                splits.add(name, split, _PARTS[mark], where)
        for where, name, parts in splits:
            yield where, named(root, str(PurePosixPath(label, name)), label, parts)


def _files(annotations: Path) -> dict[str, dict[int, Path]]:
    """The lists by class and split. Raises UsageError if a class lacks a split that another one has."""
    found: dict[str, dict[int, Path]] = {}
    for file in sorted(annotations.glob("*_test_split[123].txt")):
        if name := _NAME.fullmatch(file.name):
            found.setdefault(name[1], {})[int(name[2])] = file
    splits = set().union(*found.values())
    for label, files in found.items():
        for split in splits - set(files):
            missing = annotations / f"{label}_test_split{split}.txt"
            raise UsageError(f"{missing} is missing, while other classes have their list of split {split}. Add it.")
    return found
