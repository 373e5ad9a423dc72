"""The NumPy references of TV-L1 and Brox flow: on known motion, beside OpenCV, golden files and truth."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import opencv
from flowprep.flow import brox, tvl1
from flowprep.flow.brox import BroxParameters
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import end_point_error, mean_epe
from flowprep.flow.reference import brox as reference_brox
from flowprep.flow.reference import tvl1 as reference_tvl1
from flowprep.flow.tvl1 import TVL1Parameters
from flowprep.synthetic import Motion
from tests.flow_contract import clip, grey

Array = NDArray[np.float64]

METHODS = [*(("tvl1", preset) for preset in tvl1.PRESETS), *(("brox", preset) for preset in brox.PRESETS)]
each_method = pytest.mark.parametrize(("method", "preset"), METHODS)


def flow(method: str, frames: Any, **parameters: Any) -> Array:
    if method == "tvl1":
        return reference_tvl1.tvl1(frames[0], frames[1], TVL1Parameters(**parameters).completed())
    return reference_brox.brox(frames[0], frames[1], BroxParameters(**parameters).completed())


def length(field: Array) -> Array:
    return np.hypot(field[0], field[1])


def inside(field: Array) -> Array:
    """Without the border, where a method has to guess."""
    return field[..., 8:-8, 8:-8]


# Both methods on motion that is known


@each_method
@pytest.mark.parametrize("shift", [(2, -1), (-1.5, 0.5)])
def test_a_shift(method: str, preset: str, shift: tuple[float, float]) -> None:
    field = flow(method, grey(clip(Motion("shift", velocity=shift), height=48, width=56)), preset=preset)
    assert field.dtype == np.float64 and field.shape == (2, 48, 56)
    assert np.median(inside(field), axis=(1, 2)) == pytest.approx(shift, abs=0.05)


@each_method
def test_rotation_and_zoom(method: str, preset: str) -> None:
    source = clip(Motion("turn", rotation=3.0, zoom=(1.03, 1.0)), height=48, width=56)
    field = flow(method, grey(source), preset=preset)
    assert inside(end_point_error(field, source.flow[0])).mean() < 0.1
    assert inside(length(source.flow[0])).mean() > 0.7


@each_method
def test_no_motion(method: str, preset: str) -> None:
    still = grey(clip(Motion("rest"), height=20, width=24))
    assert length(flow(method, still, preset=preset)).mean() < 0.01
    assert not flow(method, np.full((2, 20, 24), 100), preset=preset).any()


@pytest.mark.parametrize("method", ["tvl1", "brox"])
def test_ipol_does_not_see_contrast(method: str) -> None:
    frames = grey(clip(Motion("shift", velocity=(1, 0.5)), height=24, width=28)).astype(np.float64)
    np.testing.assert_allclose(
        flow(method, 0.3 * frames + 50, preset="ipol"), flow(method, frames, preset="ipol"), atol=1e-6
    )


def test_iterations_stop_at_epsilon() -> None:
    """With a limit that any change keeps, one iteration is made; with none, all of them."""
    frames = grey(clip(Motion("shift", velocity=(0.5, 0.2)), height=20, width=24))
    once = flow("tvl1", frames, nscales=1, warps=1, inner_iterations=1, outer_iterations=1)
    assert np.array_equal(flow("tvl1", frames, nscales=1, warps=1, epsilon=1e3), once)
    all_of_them = flow("tvl1", frames, nscales=1, warps=1, epsilon=0)
    assert not np.array_equal(flow("tvl1", frames, nscales=1, warps=1), all_of_them)


# Another value of each parameter that must show in the flow.
OTHER = {
    "tvl1": {
        "tau": 0.1, "lambda_": 0.05, "theta": 0.2, "nscales": 1, "warps": 1, "epsilon": 0.1, "inner_iterations": 2,
        "outer_iterations": 2, "scale_step": 0.7, "median_filtering": 3, "presmoothing": 1.5,
    },
    "brox": {
        "alpha": 0.5, "gamma": 3.0, "scale_factor": 0.65, "inner_iterations": 2, "outer_iterations": 1,
        "solver_iterations": 3, "warps": 2, "omega": 1.5, "tolerance": 0.1, "presmoothing": 1.5,
    },
}  # fmt: skip


@each_method
def test_every_parameter_counts(method: str, preset: str) -> None:
    frames = grey(clip(Motion("turn", velocity=(1, 0.5), rotation=4.0), height=24, width=28))
    parameters = TVL1Parameters if method == "tvl1" else BroxParameters
    assert set(OTHER[method]) == {field.name for field in fields(parameters)} - {"preset"}
    base = {"tvl1": {"outer_iterations": 3, "inner_iterations": 9, "epsilon": 0}, "brox": {"warps": 3}}[method]
    usual = flow(method, frames, preset=preset, **base)
    for name, value in OTHER[method].items():
        assert not np.array_equal(flow(method, frames, preset=preset, **{**base, name: value}), usual), name


# OpenCV's TV-L1


def opencv_tvl1(frames: NDArray[np.uint8], **parameters: Any) -> Array:
    solver = opencv.load().optflow.DualTVL1OpticalFlow_create(**parameters)
    return np.asarray(solver.calc(frames[0], frames[1], None).transpose(2, 0, 1), np.float64)


@pytest.mark.parametrize("size", [(48, 56), (37, 61)])
def test_tvl1_is_opencvs_to_the_last_digits(size: tuple[int, int]) -> None:
    """Without early stopping, which hangs on rounding, and for one warp, as OpenCV 4 rounds positions to 1/32 px."""
    frames = grey(clip(Motion("turn", velocity=(0.8, -0.4), rotation=2.0), height=size[0], width=size[1]))
    ours = flow("tvl1", frames, nscales=1, warps=1, epsilon=0, inner_iterations=10, outer_iterations=3)
    theirs = opencv_tvl1(frames, nscales=1, warps=1, epsilon=0, innnerIterations=10, outerIterations=3)
    assert length(ours - theirs).max() < 1e-4 and length(ours).mean() > 0.3


def test_tvl1_is_opencvs() -> None:
    frames = grey(clip(Motion("turn", velocity=(1.5, -0.6), rotation=2.0), height=60, width=72))
    difference = length(flow("tvl1", frames) - opencv_tvl1(frames))
    assert difference.mean() < 0.02


# Golden files and ground truth


def middlebury(data: Path, sequence: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    cv2 = opencv.load()
    folder = data / "middlebury" / sequence
    images = [cv2.imread(str(folder / f"frame{number}.png")) for number in (10, 11)]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in images]), read_flo(folder / "flow10.flo")


def test_brox_against_opencvs_golden_file(data: Path) -> None:
    """In single precision. Over-relaxation by 1.99 amplifies rounding: noise of 1e-6 grey levels makes as much."""
    cv2 = opencv.load()
    folder = data / "goldens/opencv-cuda-brox"
    frames = [cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (0, 1)]
    raw = (folder / "brox_optical_flow_cc20.bin").read_bytes()
    golden = np.frombuffer(raw, "<f4", offset=8).reshape(2, *np.frombuffer(raw, "<i4", 2))
    difference = length(flow("brox", frames) - golden)
    assert difference.mean() < 0.008 and np.percentile(difference, 99) < 0.06
    assert length(golden).mean() > 0.8


@each_method
def test_accuracy_in_a_part_of_rubberwhale(data: Path, method: str, preset: str) -> None:
    """A tenth to a fifth of the motion there, and the same as ever."""
    frames, truth = middlebury(data, "RubberWhale")
    part = (slice(None), slice(200, 280), slice(300, 400))
    error = {
        ("tvl1", "opencv"): 0.168,
        ("tvl1", "opencv-cuda"): 0.167,
        ("tvl1", "ipol"): 0.248,
        ("brox", "opencv-cuda"): 0.092,
        ("brox", "opencv-default"): 0.103,
        ("brox", "ipol"): 0.117,
    }[method, preset]
    assert mean_epe(flow(method, frames[part], preset=preset), truth[part]) == pytest.approx(error, abs=0.003)
    assert mean_epe(np.zeros_like(truth[part]), truth[part]) == pytest.approx(1.38, abs=0.01)


# End-point errors in px of other implementations: OpenCV's, the authors' of the IPOL article on TV-L1, and ports of
# OpenCV CUDA's Brox and of the IPOL article's.
SEQUENCES = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")
ACCURACY = {
    ("tvl1", "opencv", 0.006): (0.179, 0.157, 0.156, 0.303),
    ("tvl1", "ipol", 0.002): (0.162, 0.156, 0.215, 0.394),
    ("brox", "opencv-cuda", 0.003): (0.188, 0.285, 0.164, 0.446),
    ("brox", "opencv-default", 0.004): (0.237, 0.295, 0.173, 0.471),
    ("brox", "ipol", 0.003): (0.086, 0.174, 0.111, 0.292),
}


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "preset", "sequence", "error", "tolerance"),
    [
        (method, preset, sequence, error, tolerance)
        for (method, preset, tolerance), errors in ACCURACY.items()
        for sequence, error in zip(SEQUENCES, errors, strict=True)
    ],
)
def test_accuracy(data: Path, method: str, preset: str, sequence: str, error: float, tolerance: float) -> None:
    frames, truth = middlebury(data, sequence)
    field = flow(method, frames, preset=preset)
    assert mean_epe(field, truth) == pytest.approx(error, abs=tolerance)
    if (method, preset) == ("tvl1", "opencv"):
        assert length(field - opencv_tvl1(frames)).mean() < 0.02
