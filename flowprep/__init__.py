"""flowprep: folders of videos to optical-flow training sets.

>>> import flowprep
>>> dataset = flowprep.open("ucf101.zarr")                     # doctest: +SKIP
>>> dataset.flow("Punch/v_Punch_g01_c01.avi", 0, 10).shape     # doctest: +SKIP
(10, 2, 240, 320)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from flowprep.store.reader import Dataset

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(path: str | PathLike[str]) -> Dataset:
    """Open a dataset written by ``flowprep extract`` for reading; see :class:`flowprep.store.reader.Dataset`."""
    from flowprep.store.reader import Dataset

    return Dataset(path)
