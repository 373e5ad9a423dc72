"""TV-L1's kernels, the very ones that GPUs run, in the simulator: against the formulas, and against the CPU engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow
from tests.cuda_simulator import simulated

HEIGHT, WIDTH = 20, 26  # two tiles across and two down, the second of each not full
FEW = {"nscales": 1, "warps": 2, "inner_iterations": 2, "outer_iterations": 1, "epsilon": 0.05}

Array = NDArray[np.float32]


def iterated(state: Array, data: Array, count: int, tau: float = 0.25) -> tuple[Array, NDArray[np.float64]]:
    """``count`` iterations of flow/tvl1.py on one pair, in float64: the state (6, H, W), the sum of squared changes of
    each."""
    u, p = state[:2].astype(np.float64), state[2:].reshape(2, 2, *state.shape[1:]).astype(np.float64)
    n, c, limit = data[:2], data[2], data[3]
    changes = []
    for _ in range(count):
        across, down = p[:, 0], p[:, 1]
        divergence = across + down
        divergence[:, :, 1:] -= across[:, :, :-1]
        divergence[:, 1:] -= down[:, :-1]
        change = tau * divergence - np.clip((n * u).sum(0) + c, -limit, limit) * n
        u += change
        changes.append((change**2).sum())
        x, y = np.zeros_like(u), np.zeros_like(u)
        x[:, :, :-1], y[:, :-1] = np.diff(u, axis=2), np.diff(u, axis=1)
        shrink = 1 / (1 + np.hypot(x, y))
        p = np.stack([(across + x) * shrink, (down + y) * shrink], axis=1)
    return np.concatenate([u, p.reshape(4, *state.shape[1:])]).astype(np.float32), np.array(changes)


def some_state(rng: np.random.Generator, pairs: int) -> tuple[Array, Array]:
    """State (2, P, 6, H, W), the buffer 0 of which is meant, and data (P, 4, H, W)."""
    state = rng.normal(size=(2, pairs, 6, HEIGHT, WIDTH)).astype(np.float32)
    state[:, :, 2:] *= 0.3
    state[:, :, 2::2, :, -1] = state[:, :, 3::2, -1] = 0  # p has nothing beyond the far borders
    angle = rng.uniform(0, 2 * np.pi, (pairs, HEIGHT, WIDTH))
    offset, limit = rng.normal(size=angle.shape), rng.uniform(0, 1, angle.shape)
    return state, np.stack([np.cos(angle), np.sin(angle), offset, limit], axis=1).astype(np.float32)


def relaxed(state: Array, data: Array, control: NDArray[np.int32], limit: float) -> dict[str, Any]:
    """In the simulator: one launch of the iterations, and what is made of it."""
    from numba import cuda

    from flowprep.flow.cuda import tile
    from flowprep.flow.cuda import tvl1_kernels as kernels

    pairs = len(data)
    across, down = tile.tiles(HEIGHT, WIDTH)
    errors = cuda.to_device(np.zeros((pairs, across * down, tile.HALO), np.float32))
    on_device, numbers = cuda.to_device(state), cuda.to_device(control)
    kernels.relax[(across, down, pairs), (tile.WIDTH, tile.STRIPS)](
        on_device, cuda.to_device(data), numbers, np.float32(0.25), errors
    )
    kernels.judge[(1, 1, pairs), (kernels.ADDERS, tile.HALO)](errors, across * down, np.float32(limit), numbers)
    return {
        "tiles": (across, down),
        "halo": tile.HALO,
        "state": on_device.copy_to_host(),
        "control": numbers.copy_to_host(),
        "errors": errors.copy_to_host().sum(axis=1),
    }


def test_iterations_on_tiles_are_those_of_the_formulas() -> None:
    state, data = some_state(np.random.default_rng(0), 3)
    control = np.array([[0, 0, 0], [1, 1, 0], [2, 1, 0], [9, 9, 9]], np.int32)  # TURN, GOING, COUNT, LEFT
    out = simulated(relaxed, state, data, control, 0.0)
    assert out["tiles"] == (2, 2) and out["halo"] == 2
    for pair, count in enumerate((2, 1)):
        wanted, changes = iterated(state[0, pair], data[pair], count)
        assert np.abs(out["state"][1, pair] - wanted).max() < 2e-6
        assert out["errors"][pair, :count] == pytest.approx(changes, rel=1e-5)
    np.testing.assert_array_equal(out["state"][0], state[0])  # what was read stays
    np.testing.assert_array_equal(out["state"][1, 2], state[1, 2])  # a pair that has stopped costs nothing
    np.testing.assert_array_equal(out["control"], [[1, 1, 0], [1, 1, 0], [2, 2, 0], [7, 8, 9]])


@pytest.mark.parametrize(
    ("enough_after", "control"),
    [
        (2, [1, 0, 0, 7]),  # at the last iteration: the new buffer is the state, and the pair has stopped
        (1, [0, 1, 1, 9]),  # before: the launch was in vain, and one iteration is to be done from the old buffer
    ],
)
def test_a_pair_stops_at_the_very_iteration(enough_after: int, control: list[int]) -> None:
    state, data = some_state(np.random.default_rng(1), 1)
    state[:] = 0
    data[:, 3] = 10  # the first iteration fulfils the data term, the second is left with what p makes of it
    _, changes = iterated(state[0, 0], data[0], 2)
    assert changes[1] < 0.5 * changes[0]
    limit = changes[enough_after - 1] * 1.001
    out = simulated(relaxed, state, data, np.array([[0], [1], [2], [9]], np.int32), limit)
    assert out["control"][:, 0].tolist() == control


def test_iterations_left_are_not_exceeded() -> None:
    state, data = some_state(np.random.default_rng(2), 1)
    out = simulated(relaxed, state, data, np.array([[0], [1], [2], [3]], np.int32), 0.0)
    assert out["control"][:, 0].tolist() == [1, 1, 1, 1]
    out = simulated(relaxed, state, data, np.array([[1], [1], [1], [1]], np.int32), 0.0)
    assert out["control"][:, 0].tolist() == [0, 1, 0, 0]  # still going: the median filter is next


def moving(seed: int, frames: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """A smooth texture that moves by 0.9 px to the right and 0.4 px up from frame to frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [(rng.uniform(0.2, 0.8, 2), rng.uniform(0, 6.3), rng.uniform(10, 30)) for _ in range(6)]
    return np.stack(
        [
            sum(a * np.sin(k[0] * (x - 0.9 * t) + k[1] * (y + 0.4 * t) + phase) for k, phase, a in waves) + 128
            for t in range(frames)
        ]
    ).astype(np.uint8)


def computed(frames: NDArray[Any], parameters: dict[str, Any], pairs: list[tuple[int, int]] | None = None) -> Array:
    """In the simulator: flow of consecutive frames, or of any ``pairs``."""
    algorithm = flow.get("tvl1", "cuda", **parameters)
    if pairs is None:
        return algorithm.flow(frames)
    first, second = np.array(pairs, np.int32).T
    return algorithm.fields(frames, first, second)[range(len(pairs))]


@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "opencv"},
        {"preset": "opencv", "warps": 1, "outer_iterations": 2, "median_filtering": 3, "presmoothing": 0.6, "tau": 0.2},
        {"preset": "opencv-cuda", "nscales": 2, "warps": 1, "inner_iterations": 5},
        {"preset": "opencv-cuda"},
        {"preset": "ipol", "nscales": 2, "scale_step": 0.7},
    ],
    ids=lambda parameters: "-".join(map(str, parameters.values())),
)
def test_flow_is_the_cpu_engines(parameters: dict[str, Any]) -> None:
    frames = moving(3, 2)
    given = {**FEW, **parameters}
    apart = simulated(computed, frames, given) - flow.get("tvl1", "cpu", **given).flow(frames)
    assert np.hypot(*apart[0]).mean() < 2e-4  # px
    assert np.hypot(*apart[0]).max() < 5e-3


def test_a_field_does_not_depend_on_its_batch() -> None:
    one, other = moving(4, 2, 16, 16), 255 - moving(5, 2, 16, 16)
    small = {**FEW, "warps": 1, "inner_iterations": 3, "median_filtering": 1}
    batch = np.concatenate([one, other])
    together = simulated(computed, batch, small, [(0, 1), (3, 2), (2, 3)])
    alone = [simulated(computed, part, small, [pair]) for part, pair in ((one, (0, 1)), (other, (1, 0)))]
    np.testing.assert_array_equal(together[0], alone[0][0])
    np.testing.assert_array_equal(together[1], alone[1][0])
    assert np.hypot(*(together[0] - together[2])).mean() > 0.01  # another pair, another field


def test_float_frames_and_flat_ones() -> None:
    small = {**FEW, "warps": 1, "inner_iterations": 1}
    frames = np.full((2, 16, 16), 99.5, np.float32)
    still = simulated(computed, frames, {**small, "preset": "ipol"})
    assert (still == 0).all()
