"""UCF-101: classInd.txt, trainlist01..03.txt and testlist01..03.txt (K. Soomro et al., arXiv:1212.0402).

A line is ``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`` in a trainlist and the path alone in a testlist; the number
is the class's in classInd.txt, from 1. The videos lie as in the lists or all in one folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from flowprep.annotations.lists import last_field, lines
from flowprep.annotations.matching import SplitLists, by_name, match
from flowprep.annotations.paths import Root, named
from flowprep.annotations.scan import Listing, scan
from flowprep.errors import UsageError
from flowprep.types import Video

FILES = "classInd.txt with trainlist01.txt and testlist01.txt (UCF-101)"


def fits(annotations: Path) -> bool:
    """Whether a folder holds the lists of UCF-101, of one split or more."""
    return (annotations / "classInd.txt").is_file() and any(annotations.glob("t*list0[123].txt"))


def read(annotations: Path, root: Root) -> Listing:
    """Every video that a list names, labelled by its class folder. Raises UsageError for lists that contradict."""
    disk = scan(root)
    return match(_listed(annotations, root), by_name(disk), disk)


def _listed(annotations: Path, root: Root) -> Iterator[tuple[str, Video]]:
    classes = _classes(annotations / "classInd.txt")
    for where, path, splits in _splits(annotations):
        video = named(root, path, splits=splits)
        if not video.refused:
            label = video.id.rpartition("/")[0]
            if label not in classes:
                raise UsageError(f"{where}: {label!r} is not a class of classInd.txt. Take all lists from one release.")
            video = dataclasses.replace(video, label=label)
        yield where, video


def _classes(file: Path) -> set[str]:
    names = set()
    for where, line in lines(file):
        number, name = last_field(line)
        if not number.isdecimal() or not name:
            raise UsageError(f"{where}: {line!r} is not a class's number and name, as '1 ApplyEyeMakeup' is.")
        names.add(name)
    return names


def _splits(annotations: Path) -> SplitLists:
    found = SplitLists()
    for split in (1, 2, 3):
        files = {part: annotations / f"{part}list{split:02d}.txt" for part in ("train", "test")}
        missing = [file for file in files.values() if not file.is_file()]
        if len(missing) == 2:
            continue  # a split that the user does not need
        if missing:
            raise UsageError(f"{missing[0]} is missing, while the other list of split {split} is there. Add it.")
        for part, file in files.items():
            for where, line in lines(file):
                path, number = last_field(line)
                found.add(path if number.isdecimal() else line, split, part, where)
    return found
