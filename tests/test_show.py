"""Pictures of flow: colours to the number, sizes to the pixel. Whether they look right is for eyes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from flowprep.errors import StoreError
from flowprep.show import contact_sheet, field_panel, flow_to_rgb, legend, save_png
from flowprep.show.colour import colour_wheel
from flowprep.show.drawing import font, shortened


def pixel(u: float, v: float, max_magnitude: float | None = None) -> tuple[int, ...]:
    flow = np.array([[[u]], [[v]]], np.float32)
    return tuple(flow_to_rgb(flow, max_magnitude)[0, 0].tolist())


def test_the_wheel_has_55_hues_that_pass_the_six_pure_colours() -> None:
    wheel = colour_wheel()
    assert wheel.shape == (55, 3) and len(np.unique(wheel, axis=0)) == 55
    assert wheel[[0, 15, 21, 25, 36, 49]].tolist() == [
        [255, 0, 0],
        [255, 255, 0],
        [0, 255, 0],
        [0, 255, 255],
        [0, 0, 255],
        [255, 0, 255],
    ]
    assert wheel[[1, 54]].tolist() == [[255, 17, 0], [255, 0, 43]]


@pytest.mark.parametrize(
    ("u", "v", "colour"),
    [
        (1, 0, (255, 0, 0)),  # right: hue 0
        (0, 1, (255, 229, 0)),  # down: half way from hue 13 to hue 14
        (-1, 0, (0, 209, 255)),  # left: hue 27
        (0, -1, (88, 0, 255)),  # up: half way from hue 40 to hue 41
    ],
)
def test_the_four_directions_have_the_colours_of_the_benchmark(u: int, v: int, colour: tuple[int, int, int]) -> None:
    assert pixel(u, v) == colour
    assert pixel(5 * u, 5 * v) == colour  # by default the largest magnitude has the full colour
    assert pixel(5 * u, 5 * v, 2.5) == tuple(int(0.75 * level) for level in wheel_at(u, v))  # darker beyond
    half = tuple(int(255 - (255 - level) / 2) for level in wheel_at(u, v))
    assert pixel(u, v, 2) == half  # half way to white
    assert pixel(u or -0.0, v or -0.0) == colour  # the sign of a zero says nothing


def wheel_at(u: int, v: int) -> np.ndarray:
    hue = {(1, 0): 0.0, (0, 1): 13.5, (-1, 0): 27.0, (0, -1): 40.5}[u, v]
    low = int(hue)
    return (colour_wheel()[low] + colour_wheel()[low + (hue > low)]) / 2


def test_zero_is_white_and_unknown_is_black() -> None:
    assert pixel(0, 0) == pixel(0, 0, 3) == pixel(-0.0, 0.0, 3) == (255, 255, 255)
    for unknown in (np.nan, 1.7e9):
        assert pixel(unknown, 1) == pixel(1, unknown, 3) == (0, 0, 0)
    flow = np.array([[[1, 1.7e9]], [[0, 0]]], np.float32)
    assert flow_to_rgb(flow)[0].tolist() == [[255, 0, 0], [0, 0, 0]]  # an unknown pixel does not set the scale


@settings(deadline=None)
@given(arrays(np.float32, (2, 5, 7), elements=st.floats(-50, 50, width=32)), st.floats(0.5, 4))
def test_only_the_ratio_to_the_maximum_counts(flow: np.ndarray, factor: float) -> None:
    a, b = flow_to_rgb(flow, 20.0), flow_to_rgb(flow * np.float32(factor), 20.0 * factor)
    magnitude = np.hypot(*flow)
    clear = (np.abs(magnitude - 20) > 1e-3) & (magnitude > 1e-3)  # rounding may not carry a pixel over an edge
    assert np.abs(a.astype(int) - b)[clear].max(initial=0) <= 1
    assert a.dtype == np.uint8 and a.shape == (5, 7, 3)


def test_colour_grows_paler_towards_zero_and_each_direction_has_its_own() -> None:
    angle = np.radians(np.arange(0, 360, 10))
    rim = flow_to_rgb(np.stack([np.cos(angle), np.sin(angle)])[:, None].astype(np.float32), 1.001)[0].astype(int)
    half = flow_to_rgb(np.stack([np.cos(angle), np.sin(angle)])[:, None].astype(np.float32), 2.002)[0].astype(int)
    assert len(np.unique(rim, axis=0)) == len(angle)
    assert np.all(half >= rim) and np.all(half.sum(axis=1) > rim.sum(axis=1))
    assert np.all(rim.max(axis=1) == 255) and np.all(rim.min(axis=1) <= 1)  # pure hues


def test_flow_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 2\)"):
        flow_to_rgb(np.zeros((3, 4, 2), np.float32))


def test_legend_shows_each_direction_where_it_points() -> None:
    size = 200
    image = legend(size, 4.5)
    assert image.shape == (size, size, 3)
    centre = np.array([np.argwhere(np.all(image == 255, axis=2)).mean(axis=0)]).round().astype(int)[0]  # white = zero
    reach = 80
    for u, v in ((1, 0), (0, 1), (-1, 0), (0, -1)):
        y, x = centre + reach * np.array([v, u])
        shown, pure = image[y, x].astype(float), wheel_at(u, v)
        assert np.abs(shown - pure).max() < 45, (u, v)  # a little paler than the rim
    assert np.array_equal(image[0, 0], image[-1, -1])  # paper around it
    assert not np.array_equal(
        legend(size, 4.5)[size - 30 :], legend(size, 9.0)[size - 30 :]
    )  # the magnitude is written


def field(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    flow = random.normal(0, 3, (2, height, width)).astype(np.float32)
    return (
        random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        flow,
        random.integers(0, 256, flow.shape, dtype=np.uint8),
    )


def place_of(image: np.ndarray, page: np.ndarray) -> tuple[int, int] | None:
    """(row, column) at which ``image`` lies on ``page``, pixel for pixel; None = nowhere."""
    height, width = image.shape[:2]
    for y, x in np.argwhere(np.all(page == image[0, 0], axis=2)).tolist():
        if np.array_equal(page[y : y + height, x : x + width], image):
            return y, x
    return None


def test_panel_shows_the_frame_the_colours_and_both_planes_at_full_size() -> None:
    frame, flow, planes = field(240, 320)
    panel = field_panel(frame, flow, planes, title="v_YoYo_g01_c01.avi, field 1 of 9")
    greys = [np.repeat(plane[..., None], 3, axis=2) for plane in planes]
    places = [place_of(image, panel) for image in (frame, flow_to_rgb(flow), *greys)]
    assert None not in places and places == sorted(places)  # one row, from left to right
    without = field_panel(None, flow, planes, title="")
    assert without.shape[1] < panel.shape[1] and place_of(frame, without) is None


def test_a_small_field_is_enlarged_by_whole_pixels() -> None:
    frame, flow, planes = field(16, 16)
    panel = field_panel(frame, flow, planes, title="")
    assert place_of(np.kron(frame, np.ones((22, 22, 1), np.uint8)), panel)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (1080, 1920), (16, 16), (17, 301), (400, 40), (1, 1)])
def test_panels_of_a_video_have_one_even_size_whatever_they_show(height: int, width: int) -> None:
    frame, flow, planes = field(height, width)
    busy = field_panel(frame, flow * 100, planes, title="a long title " * 100, max_magnitude=5.0)
    still = field_panel(np.zeros_like(frame), np.zeros_like(flow), np.zeros_like(planes), title="")
    unknown = field_panel(frame, np.full_like(flow, np.nan), planes, title="\udcff\n\u4f60")
    assert busy.shape == still.shape == unknown.shape
    assert busy.dtype == np.uint8 and busy.shape[0] % 2 == busy.shape[1] % 2 == 0
    assert busy.shape[0] <= 520 and busy.shape[1] <= 1700
    assert busy.std() > 20


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int8])
def test_levels_of_other_than_8_bits_go_from_black_to_white(dtype: type[np.integer]) -> None:
    frame, flow, _ = field(60, 80)
    plane = np.arange(60 * 80).reshape(60, 80) % 101
    planes = np.stack([plane - plane.min(), 3 * plane // 4]).astype(dtype)
    panel = field_panel(frame, flow, planes, title="")
    level = np.rint(plane * 2.55).astype(np.uint8)
    assert place_of(np.repeat(np.kron(level, np.ones((4, 4), np.uint8))[..., None], 3, axis=2), panel)
    constant = np.full((2, 60, 80), np.iinfo(dtype).max, dtype)
    assert field_panel(frame, flow, constant, title="").shape == panel.shape


def test_planes_of_another_size_than_the_flow_are_refused() -> None:
    frame, flow, planes = field(20, 30)
    with pytest.raises(ValueError, match=r"\(2, 20, 30\).*\(2, 20, 29\)"):
        field_panel(frame, flow, planes[:, :, :-1], title="")


def test_contact_sheet_keeps_the_order_of_its_tiles() -> None:
    tiles = [(f"tile {i}", field(180, 240, seed=i)[0]) for i in range(5)]
    sheet = contact_sheet(tiles, 3, title="five tiles")
    assert sheet.shape[0] % 2 == sheet.shape[1] % 2 == 0
    places = [place_of(tile, sheet) for _, tile in tiles]
    assert None not in places and places == sorted(places)
    assert len({y for y, _ in places}) == 2 and len({x for _, x in places}) == 3
    one = contact_sheet(tiles[:1], 3)
    assert one.shape[1] < 2 * 240  # no empty columns


def test_contact_sheet_takes_tiles_of_any_size() -> None:
    shapes = [(1080, 1920, 3), (240, 320, 3), (240, 320, 3), (16, 16, 3), (500, 20, 3), (120, 160)]
    random = np.random.default_rng(0)
    tiles = [("long caption " * 30, random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
    sheet = contact_sheet(tiles, 2)
    assert sheet.std() > 20
    assert 2 * 320 < sheet.shape[1] < 3 * 320 and 3 * 240 < sheet.shape[0] < 4 * 240  # the commonest size, 320x240
    for tiles_, columns in (([], 3), (tiles, 0)):
        with pytest.raises(ValueError, match="contact sheet"):
            contact_sheet(tiles_, columns)


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(20, 300))
def test_a_caption_is_one_line_that_fits(text: str, width: int) -> None:
    short = shortened(text, width, 13)
    assert font(13).getlength(short) <= width
    assert "\n" not in short
    flat = " ".join(text.split())
    if short != flat:
        head, tail = short.split("…", 1) if "…" not in flat else ("", "")
        assert flat.startswith(head) and flat.endswith(tail)


def test_save_png_gives_the_image_back_and_names_what_it_cannot_write(tmp_path: Path) -> None:
    image = field(5, 6)[0]
    save_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.format == "PNG"
        np.testing.assert_array_equal(np.asarray(saved), image)
    with pytest.raises(StoreError, match="nowhere"):
        save_png(tmp_path / "nowhere" / "a.png", image)
