"""Pictures in a report: frames of videos and filters of a first layer, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep.errors import FlowprepError
from flowprep.show import flow_to_rgb
from flowprep.store.reader import Dataset, VideoRow

THUMBNAIL = 240  # px, its longer side
QUALITY = 80  # of thumbnails, JPEG
FILTERS_WIDTH = 1600  # px: filters are enlarged by whole factors up to it
LARGEST_FACTOR = 5
MARGIN = 1  # px between kernels, before they are enlarged
MIDDLE = 128  # grey of a weight of zero
RGB = 3


class Videos:
    """Middle frames of the videos of some datasets. ``notes`` says what could not be read, in sentences."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.notes: list[str] = []
        self._rows: dict[str, list[tuple[Dataset, VideoRow]]] = {}  # by id, those with frames first
        for path in dict.fromkeys(paths):
            self._open(path)
        for rows in self._rows.values():
            rows.sort(key=lambda item: item[1].row.frames is None)
        if not paths:
            self.notes.append("There are no pictures of the videos: the scores name no dataset.")

    def middle(self, id: str) -> NDArray[np.uint8] | None:
        """(H, W, 3) RGB: the middle frame where one is stored, else its flow in colours; None without either."""
        for dataset, row in self._rows.get(id, []):
            try:
                return _middle(dataset, row)
            except (FlowprepError, OSError) as error:
                self.notes.append(f"No picture of a video: {error}")
        return None

    def _open(self, path: str) -> None:
        try:
            dataset = Dataset(path)
        except (FlowprepError, OSError, ValueError) as error:  # ValueError: a name that no file can have
            self.notes.append(f"No pictures from a dataset that cannot be opened: {error}")
            return
        for row in dataset.videos:
            if row.row.flow:
                self._rows.setdefault(row.id, []).append((dataset, row))


def _middle(dataset: Dataset, row: VideoRow) -> NDArray[np.uint8]:
    id = row.id
    if row.row.frames:
        number = row.row.frames.length // 2
        frame: NDArray[np.uint8] = dataset.frames(id, number, number + 1)[0]
        return frame.transpose(1, 2, 0)
    number = row.fields // 2
    if dataset.settings.stack:
        return flow_to_rgb(dataset.stacks(id, number, number + 1)[0, :2])
    direction = "backward" if dataset.settings.flow.direction == "backward" else "forward"
    return flow_to_rgb(dataset.flow(id, number, number + 1, direction=direction)[0])


def thumbnail(image: NDArray[np.uint8]) -> str:
    """(H, W, 3) RGB as a small JPEG, in a data URI."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return _uri(picture, "JPEG", quality=QUALITY)


def filters_picture(kernels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """First-layer kernels as the two-stream paper draws them (its figure 4).

    (filters, channels, k, k) becomes a grey (H, W) picture with a column for each filter and a row for each channel,
    so that the x and y components of the stacked fields follow each other from top to bottom. Filters of RGB become
    an (H, W, 3) picture of coloured squares. Each filter is scaled by its largest weight; zero is mid-grey.
    """
    kernels = np.nan_to_num(kernels, posinf=0, neginf=0)  # of a training that went astray
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    levels = np.rint(MIDDLE + (255 - MIDDLE) * kernels / np.where(largest > 0, largest, 1)).astype(np.uint8)
    filters, channels, height, width = kernels.shape
    if channels == RGB:
        columns = min(filters, 16)
        cells = np.full((-(-filters // columns) * columns, height, width, RGB), MIDDLE, np.uint8)
        cells[:filters] = levels.transpose(0, 2, 3, 1)
        return _enlarged(_grid(cells.reshape(-1, columns, height, width, RGB)))
    return _enlarged(_grid(levels.transpose(1, 0, 2, 3)))


def png(image: NDArray[np.uint8]) -> str:
    """(H, W) grey or (H, W, 3) RGB, unchanged, in a data URI."""
    return _uri(Image.fromarray(image), "PNG", optimize=True)


def _grid(cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns, h, w, ...) side by side, with a black margin below and to the right of each."""
    rest = ((0, 0),) * (cells.ndim - 4)
    spaced = np.pad(cells, ((0, 0), (0, 0), (0, MARGIN), (0, MARGIN), *rest))
    rows, columns, height, width = spaced.shape[:4]
    return np.moveaxis(spaced, 1, 2).reshape(rows * height, columns * width, *spaced.shape[4:])


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    factor = max(1, min(LARGEST_FACTOR, FILTERS_WIDTH // image.shape[1]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _uri(picture: Image.Image, kind: str, **options: int) -> str:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
