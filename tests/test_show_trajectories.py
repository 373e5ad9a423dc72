"""Trajectories from the values of a stack, and as lines on a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowprep.show.trajectories import BACKWARD, FORWARD, colours, draw_trajectories, follow, grid
from flowprep.stacks import trajectory_stack
from flowprep.stacks.reference import bilinear, clamped
from flowprep.synthetic import Motion, render

HEIGHT, WIDTH = 20, 30


def stacked(flow: NDArray[np.float32], length: int, stride: int = 1) -> NDArray[np.float32]:
    """What a trajectory stack of ``flow`` holds: (L, 2, H, W) px."""
    return trajectory_stack(flow, 0, length, stride=stride).reshape(length, 2, *flow.shape[2:])


def walk(flow: NDArray[np.float32], start: Any, steps: int) -> list[tuple[float, float]]:
    """Eq. 2 for one point, from the fields."""
    flow = flow.astype(np.float64)
    x, y = (np.float64(value) for value in start)
    found = [(x, y)]
    for field in flow[:steps]:
        u, v = bilinear(field[0], x, y), bilinear(field[1], x, y)
        x, y = clamped(x + u, flow.shape[3]), clamped(y + v, flow.shape[2])
        found.append((x, y))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_positions_are_those_of_eq_2(seed: int) -> None:
    random = np.random.default_rng(seed)
    flow = np.repeat(np.repeat(random.normal(0, 4, (6, 2, 5, 6)), 4, axis=2), 5, axis=3).astype(np.float32)
    starts = grid(HEIGHT, WIDTH, 6)
    positions = follow(stacked(flow, 6), 1, starts)
    assert positions.shape == (len(starts), 7, 2)
    exact = np.array([walk(flow, start, 6) for start in starts])
    on_border = (exact[..., 0] % (WIDTH - 1) == 0) | (exact[..., 1] % (HEIGHT - 1) == 0)
    assert on_border.sum() > 20, "many of them leave the frame and go on from its border"
    np.testing.assert_allclose(positions, exact, atol=2e-3)


def test_a_rotating_scene_is_followed_round_its_centre() -> None:
    clip = render(Motion("rotate", rotation=2.0), seed=0, frames=11, height=61, width=61)
    starts = np.array([[30, 30], [30, 15], [45, 30]])
    ends = follow(stacked(clip.flow, 10), 1, starts)[:, -1]
    angle = np.radians(20)  # clockwise on the screen: what is above moves to the right
    np.testing.assert_allclose(ends[0], [30, 30], atol=1e-3)
    np.testing.assert_allclose(ends[1], [30 + 15 * np.sin(angle), 30 - 15 * np.cos(angle)], atol=1e-3)
    np.testing.assert_allclose(ends[2], [30 + 15 * np.cos(angle), 30 + 15 * np.sin(angle)], atol=1e-3)


@pytest.mark.parametrize("stride", [2, 3, 7])
def test_steps_that_are_not_stored_are_interpolated_linearly(stride: int) -> None:
    length = 4
    steps = (length - 1) * stride + 1
    speed = 0.05 * np.arange(steps, dtype=np.float32)  # px per frame: it accelerates evenly, so nothing is lost
    flow = np.zeros((steps, 2, HEIGHT, WIDTH), np.float32)
    flow[:, 0], flow[:, 1] = speed[:, None, None], -0.5 * speed[:, None, None]
    values = stacked(flow, length, stride)
    assert len(values) == length < steps
    (positions,) = follow(values, stride, np.array([[2, 18]]))
    distance = np.concatenate([[0], np.cumsum(speed)])
    np.testing.assert_allclose(positions, np.stack([2 + distance, 18 - 0.5 * distance], axis=1), atol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3200))
def test_start_points_are_spread_evenly_over_any_field(height: int, width: int, steps: int) -> None:
    starts = grid(height, width, steps)
    assert 1 <= len(starts) <= 17 * 17 and len(np.unique(starts, axis=0)) == len(starts)
    x, y = np.unique(starts[:, 0]), np.unique(starts[:, 1])
    assert len(x) * len(y) == len(starts)
    for places, size in ((x, width), (y, height)):
        assert places[0] >= 0 and places[-1] < size
        assert abs(places[0] - (size - 1 - places[-1])) <= 1, "as far from one border as from the other"
    gaps = np.concatenate([np.diff(x), np.diff(y)])
    assert len(np.unique(gaps)) <= 1


def test_long_trajectories_start_farther_apart() -> None:
    assert len(grid(240, 320, 10)) == len(grid(240, 320, 1)) == 16 * 12
    assert len(grid(240, 320, 32)) < 16 * 12 / 2


def drawn(ground: tuple[int, int, int], *ways: list[tuple[float, float]]) -> NDArray[np.uint8]:
    """Lines through points of a field of 20x30 px, on a picture ten times as large."""
    image = np.full((10 * HEIGHT, 10 * WIDTH, 3), ground, np.uint8)
    draw_trajectories(image, [np.array([way]) for way in ways], (HEIGHT, WIDTH))
    return image


GROUNDS = [(0, 0, 0), (255, 255, 255), (128, 128, 128), *FORWARD, *BACKWARD]


@pytest.mark.parametrize("ground", GROUNDS)
def test_lines_run_through_pixel_centres_and_show_on_any_ground(ground: tuple[int, int, int]) -> None:
    image = drawn(ground, [(5, 10), (10, 10), (15, 10), (20, 10)], [(5, 10), (3, 5)]).astype(int)

    def at(x: float, y: float) -> NDArray[np.int64]:
        return image[round(10 * (y + 0.5)), round(10 * (x + 0.5))]

    assert at(5, 10).tolist() == [255, 255, 255], "the start"
    expected = colours(FORWARD, 3)
    for step, x in enumerate((7.5, 12.5, 17.5)):
        assert np.abs(at(x, 10) - expected[step]).max() <= 12
    assert np.abs(at(4, 7.5) - BACKWARD[0]).max() <= 90, "one step has its first colour; a slanted line is smooth"
    assert np.array_equal(at(25, 10), ground) and np.array_equal(at(12, 13), ground), "nothing else is touched"
    luma = image[:, 130] @ [0.299, 0.587, 0.114]  # across the line: its colour, its dark edges, the ground
    assert luma.max() - luma.min() > 60, "it can be seen"


def test_lines_are_smooth() -> None:
    image = drawn((0, 0, 0), [(2, 2), (27, 9)])
    reds = np.unique(image[..., 0])
    assert len(reds) > 10, "covered in part: many levels between the line and the ground"


def test_a_point_that_rests_is_a_white_dot() -> None:
    image = drawn((128, 128, 128), [(15, 10)] * 4)
    touched = np.argwhere(np.any(image != 128, axis=2))
    assert image[105, 155].tolist() == [255, 255, 255]
    assert np.abs(touched - [105, 155]).max() <= 5


def test_colours_go_from_the_first_to_the_last() -> None:
    for ends in (FORWARD, BACKWARD):
        assert colours(ends, 1).tolist() == [list(ends[0])]
        assert colours(ends, 9)[[0, -1]].tolist() == [list(end) for end in ends]
        assert len(np.unique(colours(ends, 32), axis=0)) == 32
