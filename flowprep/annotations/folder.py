"""A folder of videos: every video file below it, labelled with the first folder on its path."""

from __future__ import annotations

from flowprep.annotations.paths import Root
from flowprep.annotations.scan import VIDEO_SUFFIXES, Listing, scan
from flowprep.errors import UsageError


def read(root: Root) -> Listing:
    """All videos below ``root``. Raises UsageError if there are none."""
    listing = scan(root)
    if not listing.videos:
        raise UsageError(
            f"No video files below {root.path} ({len(listing.ignored)} other files). Known suffixes: "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}. Files with other suffixes can be named in a list."
        )
    return listing
