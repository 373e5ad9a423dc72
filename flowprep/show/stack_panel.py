"""One stack on one panel: the frame with its trajectories, the flow of each field in colour, and the 2L planes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowprep.config import Stacking
from flowprep.show.colour import flow_to_rgb, legend
from flowprep.show.drawing import (
    CAPTION,
    FAINT,
    GAP,
    INK,
    MARGIN,
    NOTE,
    TITLE,
    blank,
    fitted_size,
    line_height,
    place,
    write,
)
from flowprep.show.trajectories import BACKWARD, FORWARD, colours, draw_trajectories, follow, grid
from flowprep.wording import plural

_PICTURE = (640, 480)  # px: the frame is scaled to fit
_NARROWEST_PICTURE = 230  # px: room for its caption
_CELL = 160  # px: the longer side of a plane, and room for its captions
_COLUMNS = 10  # fields side by side
_SIDE = 340  # px: width of the column beside the picture
_LEGEND = 132  # px
_BAR = 10  # px: height of the colours of a scale
_SCALE_HEIGHT = _BAR + 3 + line_height(NOTE) + 6  # px: with what is written below it
_STRIP = 4  # px: height of the mark above a field
_MOST = 0.75  # of the fields, for the ends of colours and greys

Scale = tuple[NDArray[np.uint8], str, str]  # colours (n, 3) from left to right, and what both ends mean


@dataclass(frozen=True)
class StackView:
    """A stack, with what its picture says of it."""

    title: str
    stacking: Stacking
    frame: int  # that it is of
    steps: tuple[tuple[int, int], ...]  # L: each field leads from one frame to another
    planes: NDArray[np.float32]  # (2L, H, W) px
    means: NDArray[np.float32]  # (2L,) px: of the fields that the planes were taken from
    first_frame: NDArray[np.uint8] | None  # (h, w, 3) RGB, of any size: the frame that the first field leads from

    @property
    def flow(self) -> NDArray[np.float32]:
        """The fields (L, 2, H, W) px, with nothing subtracted."""
        back = self.means if self.stacking.mean_subtract else np.zeros_like(self.means)
        return (self.planes + back[:, None, None]).reshape(-1, 2, *self.planes.shape[1:])

    @property
    def ways(self) -> tuple[range, ...]:
        """Numbers of the fields forward and, of stacks of both directions, backward in time."""
        count = len(self.steps)
        return (range(count // 2), range(count // 2, count)) if self.stacking.bidirectional else (range(count),)

    def colour_end(self) -> float:
        """px: the magnitude that three quarters of its fields stay below: a cut of the scene must not pale the rest."""
        return float(np.quantile(np.hypot(*self.flow.swapaxes(0, 1)).max(axis=(1, 2)), _MOST))

    def grey_end(self) -> float:
        """px: what the values of three quarters of its planes stay below, up or down."""
        return float(np.quantile(np.abs(self.planes).max(axis=(1, 2)), _MOST))


def stack_panel(view: StackView, max_magnitude: float | None = None) -> NDArray[np.uint8]:
    """A picture of one stack: (height, width, 3) uint8 RGB, both sides even.

    ``max_magnitude`` is the px that the colours end at; by default what most fields of this stack stay below, and so
    for the greys: what is beyond is drawn darker, black or white. The size of the panel depends on the kind of stack,
    its size and that of the frame, on nothing else.
    """
    ends = view.colour_end() if max_magnitude is None else max_magnitude, view.grey_end()
    flow = view.flow
    picture = _picture(view, flow, ends[0])
    scales, notes = _scales(view, ends[1]), _notes(view)
    height, width = view.planes.shape[1:]
    cell = (_CELL, fitted_size(width, height, (_CELL, _CELL))[1])
    rows = _rows(view)
    row_height = _STRIP + 4 + line_height(NOTE) + 3 * (cell[1] + 4) + 5 * line_height(NOTE) + 2 * GAP
    picture_width = max(picture.shape[1], _NARROWEST_PICTURE)
    inner = max(picture_width + 2 * GAP + _SIDE, max(map(len, rows)) * (cell[0] + GAP) - GAP)
    picture_top = MARGIN + line_height(TITLE) + GAP + line_height(CAPTION)
    side_height = _LEGEND + GAP + len(scales) * _SCALE_HEIGHT + len(notes) * line_height(NOTE)
    rows_top = picture_top + max(picture.shape[0], side_height) + 2 * GAP
    page = blank(inner + 2 * MARGIN, rows_top + len(rows) * row_height - 2 * GAP + MARGIN)

    write(page, (MARGIN, MARGIN), view.title, TITLE, inner, INK)
    caption_top = picture_top - line_height(CAPTION)
    write(page, (MARGIN, caption_top), _caption(view), CAPTION, picture_width + 2 * GAP + _SIDE, INK)
    place(page, picture, (MARGIN, picture_top), (picture_width, picture.shape[0]))
    _side(page, (MARGIN + picture_width + 2 * GAP, picture_top), ends[0], scales, notes)
    marks = np.concatenate(_marks(view))
    for i, row in enumerate(rows):
        for column, k in enumerate(row):
            corner = (MARGIN + column * (cell[0] + GAP), rows_top + i * row_height)
            if view.stacking.kind == "trajectory":  # the colour that its step has in the picture
                left, top = corner
                page.paste(tuple(marks[k].tolist()), (left, top, left + cell[0], top + _STRIP))
            _field(page, view, k, flow[k], ends, (corner[0], corner[1] + _STRIP + 4), cell)
    return np.array(page)


def _picture(view: StackView, flow: NDArray[np.float32], full: float) -> NDArray[np.uint8]:
    """The frame that the stack begins at, else its first field, at the size of the picture; trajectories over it."""
    image = flow_to_rgb(flow[0], full) if view.first_frame is None else view.first_frame
    scale = min(_PICTURE[0] / image.shape[1], _PICTURE[1] / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    grows = Image.Resampling.NEAREST if view.first_frame is None else Image.Resampling.BICUBIC
    picture = Image.fromarray(image).resize(size, grows if scale > 1 else Image.Resampling.HAMMING)
    canvas = np.array(picture)
    if view.stacking.kind == "trajectory":
        stride = view.stacking.temporal_stride
        height, width = flow.shape[2:]
        starts = grid(height, width, len(flow) * stride)
        ways = [follow(flow[way.start : way.stop], stride, starts) for way in view.ways]
        draw_trajectories(canvas, ways, (height, width))
    return canvas


def _caption(view: StackView) -> str:
    """Of the picture."""
    begin, end = view.steps[0]
    caption = f"flow {begin} -> {end}" if view.first_frame is None else f"frame {begin}"
    if view.stacking.kind == "trajectory":
        caption += ", trajectories from the white points on"
        if (stride := view.stacking.temporal_stride) > 1:
            caption += f"; {stride - 1} of {stride} steps interpolated linearly"
    return caption


def _marks(view: StackView) -> list[NDArray[np.uint8]]:
    """The colours (n, 3) of the fields of each way."""
    return [colours(ends, len(way)) for way, ends in zip(view.ways, (FORWARD, BACKWARD), strict=False)]


def _notes(view: StackView) -> list[str]:
    """What to know of the stack, a line each."""
    stacking = view.stacking
    planes = 2 * stacking.length
    read = "along the trajectories (eq. 2)" if stacking.kind == "trajectory" else "at the same place (eq. 1)"
    around = (
        ", in the centre" if stacking.anchor == "centre" else ", half back in time" if stacking.bidirectional else ""
    )
    notes = [
        f"L = {plural(stacking.length, 'field')}, {planes} planes, read {read}",
        f"stack of frame {view.frame}{around}",
        "colours: the flow" + (", with its mean" if stacking.mean_subtract else ""),
        "greys: the planes" + (", less the mean of each field" if stacking.mean_subtract else ", nothing subtracted"),
    ]
    if stacking.temporal_stride > 1:
        notes.append(f"temporal stride {stacking.temporal_stride}: one of so many fields is read")
    return notes


def _scales(view: StackView, grey_end: float) -> list[Scale]:
    """What the greys of the planes mean, and the colours of the trajectories."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    scales = [(greys, f"{-grey_end:z.3g} px", f"{grey_end:.3g} px")]
    if view.stacking.kind == "trajectory":
        for way, ends in zip(view.ways, (FORWARD, BACKWARD), strict=False):
            begin, end = view.steps[way[0]][0], view.steps[way[-1]][1]
            scales.append((colours(ends, 256), f"frame {begin}", f"frame {end}"))
    return scales


def _side(page: Image.Image, corner: tuple[int, int], full: float, scales: list[Scale], notes: list[str]) -> None:
    """Legend, scales and notes, one below the other."""
    left, top = corner
    page.paste(Image.fromarray(legend(_LEGEND, full)), (left, top))
    top += _LEGEND + GAP
    for ramp, begin, end in scales:
        bar = np.broadcast_to(ramp[np.linspace(0, len(ramp) - 1, _SIDE).astype(int)], (_BAR, _SIDE, 3))
        place(page, np.ascontiguousarray(bar), (left, top), (_SIDE, _BAR))
        top += _BAR + 3
        write(page, (left, top), begin, NOTE, _SIDE // 2, FAINT)
        write(page, (left + _SIDE, top), end, NOTE, _SIDE // 2, FAINT, right=True)
        top += _SCALE_HEIGHT - _BAR - 3
    for note in notes:
        write(page, (left, top), note, NOTE, _SIDE, INK)
        top += line_height(NOTE)


def _field(
    page: Image.Image,
    view: StackView,
    k: int,
    flow: NDArray[np.float32],
    ends: tuple[float, float],
    corner: tuple[int, int],
    cell: tuple[int, int],
) -> None:
    """One field of a stack: its flow in colour, its two planes with their range and mean; ``ends`` of both in px."""
    left, top = corner
    begin, end = view.steps[k]
    write(page, (left, top), f"{k + 1}: flow {begin} -> {end}", NOTE, cell[0], INK)
    top += line_height(NOTE)
    place(page, flow_to_rgb(_shrunk(flow, cell), ends[0]), (left, top), cell)
    top += cell[1] + 4
    write(page, (left, top), f"largest {np.hypot(*flow).max():.2f} px", NOTE, cell[0], FAINT)
    top += line_height(NOTE)
    for plane, mean, name in zip(view.planes[2 * k :], view.means[2 * k :], "uv", strict=False):
        place(page, _grey(_shrunk(plane[None], cell)[0], ends[1]), (left, top), cell)
        top += cell[1] + 4
        kept = f"less mean {mean:z.2f} px" if view.stacking.mean_subtract else f"mean {mean:z.2f} px, kept"
        write(page, (left, top), f"{name}{k + 1}: {plane.min():z.2f} to {plane.max():z.2f} px", NOTE, cell[0], INK)
        write(page, (left, top + line_height(NOTE)), kept, NOTE, cell[0], FAINT)
        top += 2 * line_height(NOTE)


def _shrunk(values: NDArray[np.float32], cell: tuple[int, int]) -> NDArray[np.float32]:
    """``values`` (n, H, W), no larger than they are shown in ``cell`` (width, height): colouring takes time."""
    height, width = values.shape[1:]
    size = fitted_size(width, height, cell)
    if size[0] >= width:
        return values
    return np.stack([np.array(Image.fromarray(plane).resize(size, Image.Resampling.HAMMING)) for plane in values])


def _grey(plane: NDArray[np.float32], full: float) -> NDArray[np.uint8]:
    """``plane`` (H, W) px as grey: middle grey is 0, black -full px or less, white full px or more."""
    grey: NDArray[np.float32] = np.rint(127.5 + 127.5 * np.clip(plane / (full or 1), -1, 1))
    return grey.astype(np.uint8)


def _rows(view: StackView) -> list[range]:
    """The numbers of the fields side by side: all, or those of each way in rows of equal length but the last."""
    if len(view.steps) <= _COLUMNS:
        return [range(len(view.steps))]
    columns = [math.ceil(len(way) / math.ceil(len(way) / _COLUMNS)) for way in view.ways]
    return [way[i : i + n] for way, n in zip(view.ways, columns, strict=True) for i in range(0, len(way), n)]
