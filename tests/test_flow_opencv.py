"""OpenCV's flow methods: the contract, the parameters, and published and golden numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flowprep import flow, opencv
from flowprep.errors import RefusedError, UsageError, Verdict, VideoError
from flowprep.flow.cpu import CPUFlow
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import mean_aae, mean_epe
from flowprep.flow.opencv import DIS_PRESETS
from flowprep.synthetic import Motion, render
from tests.flow_contract import FlowContract, frames  # noqa: F401 - a fixture


class TestTVL1(FlowContract):
    method = "tvl1"
    backend = "opencv"


class TestDeepFlow(FlowContract):
    method = "deepflow"
    backend = "opencv"


class TestDISUltrafast(FlowContract):
    method = "dis"
    backend = "opencv"
    parameters = {"preset": "ultrafast"}  # noqa: RUF012


class TestDISFast(FlowContract):
    method = "dis"
    backend = "opencv"
    parameters = {"preset": "fast"}  # noqa: RUF012


class TestDISMedium(FlowContract):
    method = "dis"
    backend = "opencv"


class TestFarneback(FlowContract):
    method = "farneback"
    backend = "opencv"


# Parameters


@pytest.fixture(scope="module")
def pair() -> np.ndarray:
    """Two frames of a texture that turns, with noise: (2, 144, 160) uint8."""
    source = render(Motion("turn", velocity=(1.5, -0.6), rotation=2.0), seed=8, frames=2, height=144, width=160)
    noise = np.random.default_rng(0).normal(0, 6, (2, 144, 160))
    return (source.frames[..., 1] + noise).clip(0, 255).astype(np.uint8)


OTHER_VALUES = {
    "tvl1": {
        "tau": 0.1,
        "lambda": 0.05,
        "theta": 0.5,
        "nscales": 1,
        "warps": 2,
        "epsilon": 0.1,
        "inner_iterations": 5,
        "outer_iterations": 1,
        "scale_step": 0.5,
        "gamma": 0.5,
        "median_filtering": 1,
    },
    "dis": {
        "preset": "fast",
        "finest_scale": 0,
        "patch_size": 12,
        "patch_stride": 5,
        "gradient_descent_iterations": 3,
        "variational_iterations": 1,
        "variational_alpha": 5.0,
        "variational_delta": 1.0,
        "variational_gamma": 1.0,
        "mean_normalization": False,
        "spatial_propagation": False,
    },
    "farneback": {
        "pyr_scale": 0.8,
        "levels": 1,
        "winsize": 9,
        "iterations": 1,
        "poly_n": 7,
        "poly_sigma": 1.5,
        "gaussian": True,
    },
    "deepflow": {},
}


@pytest.mark.parametrize("method", OTHER_VALUES)
def test_every_parameter_reaches_opencv(pair, method):
    pair = pair[:, :64, :80] if method == "tvl1" else pair  # to be quick
    before = flow.get(method, "opencv").flow(pair)
    assert set(OTHER_VALUES[method]) == set(flow.get(method, "opencv").parameters.to_json())
    for name, value in OTHER_VALUES[method].items():
        changed = flow.get(method, "opencv", **{name: value})
        assert changed.parameters.to_json()[name] == value
        assert not np.array_equal(changed.flow(pair), before), f"{method}.{name} changes nothing"


@pytest.mark.parametrize(
    ("method", "function"), [("tvl1", "DualTVL1OpticalFlow_create"), ("deepflow", "createOptFlow_DeepFlow")]
)
def test_defaults_are_opencvs_own(pair, method, function):
    pair = np.ascontiguousarray(pair[:, :64, :80])
    solver = getattr(opencv.load().optflow, function)()
    expected = solver.calc(pair[0], pair[1], None).transpose(2, 0, 1)
    assert np.array_equal(flow.get(method, "opencv").flow(pair)[0], expected)


@pytest.mark.parametrize("preset", DIS_PRESETS)
@pytest.mark.parametrize(("height", "width"), [(144, 160), (64, 64), (33, 47), (31, 31), (16, 16)])
def test_dis_presets_are_opencvs_own(pair, preset, height, width):
    cv2 = opencv.load()
    small = np.ascontiguousarray(pair[:, :height, :width])
    solver = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
    expected = solver.calc(small[0], small[1], None).transpose(2, 0, 1)
    assert np.array_equal(flow.get("dis", "opencv", preset=preset).flow(small)[0], expected)


def test_farneback_is_opencvs_function(pair):
    expected = opencv.load().calcOpticalFlowFarneback(pair[0], pair[1], None, 0.5, 3, 15, 3, 5, 1.2, 0)
    assert np.array_equal(flow.get("farneback", "opencv").flow(pair)[0], expected.transpose(2, 0, 1))


WIDE = """
import sys
import numpy as np
from flowprep import flow
from flowprep.synthetic import Motion, render
for height, width in ((16, 90), (16, 200), (17, 500), (31, 1000), (24, 3000)):
    clip = render(Motion("right", velocity=(2.0, 0.0)), seed=1, frames=2, height=height, width=width)
    field = flow.get("dis", preset=sys.argv[1]).flow(np.ascontiguousarray(clip.frames[..., 1]))
    assert abs(np.median(field[0, 0]) - 2) < 0.4, (height, width)
"""


@pytest.mark.parametrize("preset", DIS_PRESETS)
def test_dis_on_wide_and_low_frames(preset):
    """OpenCV's own choice of scales ends the process here, so this one has a process of its own."""
    done = subprocess.run([sys.executable, "-c", WIDE, preset], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"


def test_dis_rounds_floats_to_the_nearest_level(pair):
    algorithm = flow.get("dis", "opencv")
    for difference in (-0.4, 0.4):
        shifted = (pair.astype(np.float32) + np.float32(difference)).clip(0, 255)
        assert np.array_equal(algorithm.flow(shifted), algorithm.flow(pair))


def test_dis_presets_are_written_out_in_full():
    full = flow.get("dis", preset="fast").parameters.to_json()
    assert full == {
        "preset": "fast",
        "finest_scale": 2,
        "patch_size": 8,
        "patch_stride": 4,
        "gradient_descent_iterations": 16,
        "variational_iterations": 5,
        "variational_alpha": 20.0,
        "variational_delta": 5.0,
        "variational_gamma": 10.0,
        "mean_normalization": True,
        "spatial_propagation": True,
    }
    assert flow.get("dis", preset="fast", patch_stride=3).parameters.to_json() == {**full, "patch_stride": 3}


def test_tvl1_parameters_in_full():
    """The defaults of OpenCV, which published flow of action data sets was made with."""
    assert flow.get("tvl1", "opencv").parameters.to_json() == {
        "tau": 0.25,
        "lambda": 0.15,
        "theta": 0.3,
        "nscales": 5,
        "warps": 5,
        "epsilon": 0.01,
        "inner_iterations": 30,
        "outer_iterations": 10,
        "scale_step": 0.8,
        "gamma": 0.0,
        "median_filtering": 5,
    }


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("tvl1", "scale_step", 0),
        ("tvl1", "scale_step", 0.01),
        ("tvl1", "scale_step", 1),
        ("tvl1", "median_filtering", 4),
        ("tvl1", "nscales", 0),
        ("tvl1", "warps", 0),
        ("tvl1", "warps", 2.5),
        ("tvl1", "inner_iterations", 0),
        ("tvl1", "outer_iterations", -1),
        ("tvl1", "tau", 0),
        ("tvl1", "lambda", -1),
        ("tvl1", "theta", 0),
        ("tvl1", "epsilon", -0.1),
        ("tvl1", "gamma", -0.1),
        ("dis", "preset", "slow"),
        ("dis", "finest_scale", -2),
        ("dis", "patch_size", 3),
        ("dis", "patch_stride", 0),
        ("dis", "patch_stride", 9),
        ("dis", "gradient_descent_iterations", 0),
        ("dis", "variational_iterations", -2),
        ("dis", "variational_alpha", -1),
        ("dis", "variational_delta", -1),
        ("dis", "variational_gamma", -1),
        ("dis", "mean_normalization", "perhaps"),
        ("farneback", "pyr_scale", 1),
        ("farneback", "pyr_scale", 0),
        ("farneback", "levels", 0),
        ("farneback", "winsize", 0),
        ("farneback", "iterations", 0),
        ("farneback", "poly_n", 6),
        ("farneback", "poly_sigma", 0),
    ],
)
def test_values_out_of_range_are_refused(method, name, value):
    with pytest.raises(UsageError, match=f"{method}.*{name}"):
        flow.get(method, "opencv", **{name: value})


@pytest.mark.parametrize("text", ["true", "Yes", "1", "false", "no", "0"])
def test_truth_values_as_people_write_them(text):
    parameters = flow.get("dis", mean_normalization=text).parameters
    assert parameters.to_json()["mean_normalization"] is (text in ("true", "Yes", "1"))


def test_frames_smaller_than_a_patch():
    with pytest.raises(VideoError, match="32x20 pixels: too small for dis.patch_size=32") as error:
        flow.get("dis", patch_size=32).flow(np.zeros((2, 20, 32), np.uint8))
    assert error.value.verdict is Verdict.TOO_SMALL


# The seam


def test_unknown_methods_and_backends():
    with pytest.raises(UsageError, match="Did you mean 'tvl1'"):
        flow.get("tvl2")
    with pytest.raises(
        UsageError, match="tvl1 has no backend 'opencw', only cpu, opencv, cuda, opencv-cuda. Did you mean"
    ):
        flow.get("tvl1", "opencw")
    with pytest.raises(UsageError, match="brox has no backend 'opencv', only cpu, cuda, opencv-cuda"):
        flow.get("brox", "opencv")


def test_without_a_backend_the_first_that_works_is_taken(monkeypatch):
    assert flow.get("tvl1").backend == flow.get("tvl1", "").backend == "cpu"
    monkeypatch.setattr(CPUFlow, "unavailable", lambda: "no kernels.")
    assert flow.get("tvl1").backend == "opencv"
    with pytest.raises(RefusedError, match="tvl1 cannot run here. cpu: no kernels."):
        flow.get("tvl1", "cpu")
    with pytest.raises(RefusedError, match="brox cannot run here. cpu: no kernels."):
        flow.get("brox")


MISSING_LIBRARY = """
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError({message!r})
sys.meta_path.insert(0, Broken())
from flowprep import flow
from flowprep.errors import RefusedError
try:
    flow.get("dis")
except RefusedError as error:
    print(error)
print(flow.backends("tvl1"))
"""


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libGL.so.1", "libgl1"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
        ("libxcb.so.1", "libxcb1"),
        ("libfoo.so.3", "pip"),
    ],
)
def test_a_missing_system_library_is_explained(library, package):
    """The minimal images of clusters have none of them."""
    message = f"{library}: cannot open shared object file: No such file or directory"
    code = MISSING_LIBRARY.format(message=message)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reason, backends = done.stdout.splitlines()
    assert reason.startswith("dis cannot run here.") and library in reason and package in reason
    assert library in backends


def test_opencv_runs_on_one_thread():
    assert opencv.load().getNumThreads() == 1


# Numbers

ALL = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")

# Mean end-point error in px and angular error in degrees on four sequences of the Middlebury training set, frame 10 to
# 11, in grey; and by how much an EPE may differ between versions of OpenCV.
MIDDLEBURY = {
    ("tvl1", ""): ([0.179, 0.157, 0.156, 0.303], [3.68, 2.21, 4.90, 5.48], 0.006),
    ("deepflow", ""): ([0.085, 0.171, 0.121, 0.281], [1.64, 2.63, 4.10, 4.28], 0.003),
    ("dis", "medium"): ([0.153, 0.324, 0.224, 0.391], [3.06, 4.95, 7.31, 6.09], 0.02),
    ("dis", "fast"): ([0.301, 0.395, 0.439, 0.573], [5.71, 5.83, 14.15, 9.11], 0.02),
    ("dis", "ultrafast"): ([0.371, 0.492, 0.536, 0.729], [7.37, 6.94, 17.46, 11.79], 0.02),
    ("farneback", ""): ([0.937, 0.583, 0.361, 1.441], [23.34, 8.40, 12.33, 21.98], 0.003),
}


def middlebury(folder: Path) -> np.ndarray:
    cv2 = opencv.load()
    return np.stack([cv2.cvtColor(cv2.imread(str(folder / f"frame1{i}.png")), cv2.COLOR_BGR2GRAY) for i in (0, 1)])


def rows(slow: bool):
    """The method, sequence and numbers of each test; the slow ones take 1 to 10 s each."""
    for (method, preset), (errors, angles, tolerance) in MIDDLEBURY.items():
        for sequence, error, angle in zip(ALL, errors, angles, strict=True):
            if (method == "tvl1" or (method == "deepflow" and sequence != "RubberWhale")) == slow:
                yield pytest.param(method, preset, sequence, error, angle, tolerance, id=f"{method}{preset}-{sequence}")


def check_middlebury(data, method, preset, sequence, error, angle, tolerance):
    folder = data / "middlebury" / sequence
    field = flow.get(method, "opencv", **({"preset": preset} if preset else {})).flow(middlebury(folder))[0]
    truth = read_flo(folder / "flow10.flo")
    assert mean_epe(field, truth) == pytest.approx(error, abs=tolerance)
    assert mean_aae(field, truth) == pytest.approx(angle, rel=0.06)


@pytest.mark.parametrize(("method", "preset", "sequence", "error", "angle", "tolerance"), list(rows(slow=False)))
def test_accuracy_on_middlebury(data, method, preset, sequence, error, angle, tolerance):
    check_middlebury(data, method, preset, sequence, error, angle, tolerance)


@pytest.mark.system
@pytest.mark.parametrize(("method", "preset", "sequence", "error", "angle", "tolerance"), list(rows(slow=True)))
def test_accuracy_on_middlebury_of_slow_methods(data, method, preset, sequence, error, angle, tolerance):
    check_middlebury(data, method, preset, sequence, error, angle, tolerance)


def test_tvl1_against_opencvs_golden_file(data):
    """OpenCV's own test data: its error to the ground truth, and the flow itself, both within rounding."""
    folder = data / "goldens/opencv-tvl1"
    cv2 = opencv.load()
    images = [cv2.imread(str(folder / f"RubberWhale{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)]
    field = flow.get("tvl1", "opencv").flow(np.stack(images))[0]
    golden = read_flo(folder / "tvl1_flow.flo")
    truth = read_flo(data / "middlebury/RubberWhale/flow10.flo")
    assert mean_epe(golden, truth) == pytest.approx(0.1563, abs=1e-4)  # the file is the one that we think it is
    assert mean_epe(field, truth) == pytest.approx(mean_epe(golden, truth), abs=0.001)
    assert mean_epe(field, golden) < 0.02
