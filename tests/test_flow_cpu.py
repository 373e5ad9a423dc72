"""The CPU engine: the contract for every method and preset, published and golden numbers, parameters, threads."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flowprep import flow, opencv
from flowprep.errors import UsageError
from flowprep.flow.brox import PRESETS as BROX_PRESETS
from flowprep.flow.files import read_flo
from flowprep.flow.metrics import mean_epe
from flowprep.flow.tvl1 import PRESETS as TVL1_PRESETS
from flowprep.synthetic import Motion, render
from tests.flow_contract import FlowContract, frames, grey  # noqa: F401 - frames is a fixture


class TestTVL1(FlowContract):
    method = "tvl1"
    backend = "cpu"


class TestTVL1CUDASchedule(FlowContract):
    method = "tvl1"
    backend = "cpu"
    parameters = {"preset": "opencv-cuda"}  # noqa: RUF012


class TestTVL1IPOL(FlowContract):
    method = "tvl1"
    backend = "cpu"
    parameters = {"preset": "ipol"}  # noqa: RUF012


class BroxContract(FlowContract):
    """Brox flow rests on differences of grey levels as much as on the levels themselves."""

    def test_a_change_of_brightness_hardly_shows(self, frames):  # noqa: F811
        brighter = frames.astype(np.float32) * 0.8 + 10
        darker = brighter.copy()
        darker[1::2] -= 8

        def change(**parameters):
            algorithm = flow.get(self.method, self.backend, **self.parameters, **parameters)
            return np.abs(algorithm.flow(darker) - algorithm.flow(brighter)).mean()

        assert change() < 0.1
        assert change(gamma=0.0) > 4 * change()  # gradients are what makes the difference


class TestBrox(BroxContract):
    method = "brox"
    backend = "cpu"


class TestBroxDefault(BroxContract):
    method = "brox"
    backend = "cpu"
    parameters = {"preset": "opencv-default"}  # noqa: RUF012


class TestBroxIPOL(BroxContract):
    method = "brox"
    backend = "cpu"
    parameters = {"preset": "ipol"}  # noqa: RUF012


# Published numbers

SEQUENCES = ("Dimetrodon", "Grove2", "RubberWhale", "Venus")
# End-point errors in px of the published programs (tvl1 opencv: of OpenCV 5), and how far ours may be from them.
PUBLISHED = {
    ("tvl1", "opencv"): ((0.1814, 0.1578, 0.1568, 0.3076), 0.01, 0.0),
    ("tvl1", "ipol"): ((0.162, 0.156, 0.215, 0.394), 0.0, 0.01),
    ("brox", "opencv-cuda"): ((0.188, 0.285, 0.164, 0.446), 0.0, 0.02),
    ("brox", "opencv-default"): ((0.237, 0.295, 0.173, 0.471), 0.0, 0.02),
    ("brox", "ipol"): ((0.086, 0.174, 0.111, 0.292), 0.0, 0.02),
}


def grey_file(path: Path) -> np.ndarray:
    cv2 = opencv.load()
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


@pytest.mark.parametrize(("method", "preset"), PUBLISHED)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_middlebury(data, method, preset, sequence):
    folder = data / "middlebury" / sequence
    pair = np.stack([grey_file(folder / f"frame{i}.png") for i in (10, 11)])
    field = flow.get(method, "cpu", preset=preset).flow(pair)[0]
    values, relative, absolute = PUBLISHED[method, preset]
    expected = values[SEQUENCES.index(sequence)]
    assert mean_epe(field, read_flo(folder / "flow10.flo")) == pytest.approx(expected, rel=relative, abs=absolute)


def test_golden_of_opencv_cuda_brox(data):
    folder = data / "goldens/opencv-cuda-brox"
    cv2 = opencv.load()
    pair = np.stack([cv2.imread(str(folder / f"frame{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (0, 1)])
    raw = (folder / "brox_optical_flow_cc20.bin").read_bytes()
    height, width = np.frombuffer(raw[:8], np.int32)
    golden = np.frombuffer(raw[8:], np.float32).reshape(2, height, width)
    difference = np.hypot(*(flow.get("brox", "cpu").flow(pair)[0] - golden))
    assert difference.mean() < 0.01
    assert np.percentile(difference, 99) < 0.06


@pytest.mark.parametrize(
    "part",
    [
        pytest.param((slice(60, 180), slice(80, 240)), id="middle"),
        # OpenCV alone takes 20 s of CPU here.
        pytest.param((slice(None), slice(None)), id="whole", marks=[pytest.mark.system, pytest.mark.timeout(400)]),
    ],
)
def test_real_pairs_against_opencvs_tvl1(data, part):
    """At most 0.02 px apart; or, where content moves out of sight, not further than OpenCV is from itself.

    There a thousandth of a grey level decides which of two solutions the iterations stop at.
    """
    ours, theirs = flow.get("tvl1", "cpu"), flow.get("tvl1", "opencv")
    noise = np.random.default_rng(0)
    apart, apart_from_itself = [], []
    for path in sorted((data / "ucf10/videos").rglob("*.avi"))[::22]:
        pair = np.ascontiguousarray(real_frames(path, 21)[10:12][:, *part])
        noisy = (pair + noise.uniform(-1e-3, 1e-3, pair.shape)).clip(0, 255).astype(np.float32)
        expected = theirs.flow(pair)
        apart.append(np.hypot(*(ours.flow(pair) - expected)[0]).mean())
        apart_from_itself.append(np.hypot(*(theirs.flow(noisy) - expected)[0]).mean())
    assert np.mean(apart) < max(0.02, 1.2 * np.mean(apart_from_itself))


def real_frames(path: Path, count: int) -> np.ndarray:
    from flowprep.config import StorageConfig, VideoConfig
    from flowprep.video import VideoReader

    reader = VideoReader(path, VideoConfig(), StorageConfig(rgb=False))
    blocks = []
    for block in reader.blocks():
        blocks.append(block.grey)
        if sum(map(len, blocks)) >= count:
            break
    return np.concatenate(blocks)[:count]


# Parameters


@pytest.fixture(scope="module")
def pair() -> np.ndarray:
    """Two frames of a texture that turns, with noise: (2, 80, 96) uint8."""
    source = render(Motion("turn", velocity=(1.5, -0.6), rotation=2.0), seed=8, frames=2, height=80, width=96)
    noise = np.random.default_rng(0).normal(0, 6, (2, 80, 96))
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
        "median_filtering": 3,
        "presmoothing": 1.0,
    },
    "brox": {
        "alpha": 0.5,
        "gamma": 5.0,
        "scale_factor": 0.5,
        "inner_iterations": 2,
        "outer_iterations": 2,
        "solver_iterations": 3,
        "warps": 2,
        "omega": 1.5,
        "tolerance": 0.1,
        "presmoothing": 1.0,
    },
}
PRESETS = {"tvl1": TVL1_PRESETS, "brox": BROX_PRESETS}


@pytest.mark.parametrize("method", OTHER_VALUES)
def test_every_parameter_changes_the_flow(pair, method):
    before = flow.get(method, "cpu")
    assert set(OTHER_VALUES[method]) == set(before.parameters.to_json()) - {"preset"}
    for name, value in OTHER_VALUES[method].items():
        changed = flow.get(method, "cpu", **{name: value})
        assert changed.parameters.to_json()[name] == value
        assert not np.array_equal(changed.flow(pair), before.flow(pair)), f"{method}.{name} changes nothing"


@pytest.mark.parametrize("method", PRESETS)
def test_presets_are_told_apart_and_complete(pair, method):
    fields = [flow.get(method, "cpu", preset=preset).flow(pair) for preset in PRESETS[method]]
    assert all(not np.array_equal(a, b) for i, a in enumerate(fields) for b in fields[:i])
    for preset, values in PRESETS[method].items():
        chosen = flow.get(method, "cpu", preset=preset).parameters.to_json()
        assert chosen == {"preset": preset, **{name.rstrip("_"): value for name, value in values.items()}}


def test_what_a_user_sets_wins_over_the_preset():
    parameters = flow.get("tvl1", "cpu", preset="ipol", warps=2, **{"lambda": "0.3"}).parameters.to_json()
    assert (parameters["warps"], parameters["lambda"], parameters["scale_step"]) == (2, 0.3, 0.5)


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("tvl1", {"preset": "opencl"}, "opencv, opencv-cuda, ipol"),
        ("tvl1", {"scale_step": 1.0}, "below 1"),
        ("tvl1", {"median_filtering": 4}, "3 or 5"),
        ("tvl1", {"warps": 0}, "1 to 10000"),
        ("tvl1", {"tau": 0}, "tau=0"),
        ("tvl1", {"lambda": -2}, r"lambda=-2"),
        ("tvl1", {"epsilon": -0.5}, "epsilon=-0.5"),
        ("tvl1", {"presmoothing": 101}, "0.1 to 100"),
        ("brox", {"preset": "opencv"}, "opencv-cuda, opencv-default, ipol"),
        ("brox", {"scale_factor": 0.96}, "0.25 to 0.95"),
        ("brox", {"omega": 2}, "between 0 and 2"),
        ("brox", {"alpha": 0}, "alpha=0"),
        ("brox", {"gamma": -3}, "gamma=-3"),
        ("brox", {"inner_iterations": 0}, "1 to 10000"),
        ("brox", {"tolerance": -2}, "tolerance=-2"),
        ("brox", {"presmoothing": -2}, "presmoothing=-2"),
    ],
)
def test_values_out_of_range(method, values, words):
    with pytest.raises(UsageError, match=words):
        flow.get(method, "cpu", **values)


@pytest.mark.parametrize("size", [(250, 32), (32, 500), (125, 40)])
def test_sizes_that_single_precision_rounds_up(size):
    pair = np.random.default_rng(0).integers(0, 256, (2, *size), dtype=np.uint8)
    assert np.isfinite(flow.get("brox", "cpu").flow(pair)).all()


def test_an_object_survives_a_failure(monkeypatch, pair):
    algorithm = flow.get("tvl1", "cpu")
    expected = algorithm.flow(pair)
    with monkeypatch.context() as patched:
        patched.setattr("flowprep.flow.cpu.tvl1.TVL1Solver.frame", raising_memory_error)
        with pytest.raises(MemoryError):
            algorithm.flow(pair[:, :40, :40])
    assert np.array_equal(algorithm.flow(pair), expected)


def raising_memory_error(_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("method", PRESETS)
def test_extreme_parameters_give_finite_flow(pair, method):
    extremes = {
        "tvl1": [
            {"lambda": 1e3},
            {"lambda": 1e-3},
            {"theta": 1e-3},
            {"tau": 5.0},
            {"nscales": 100, "scale_step": 0.95},
        ],
        "brox": [{"alpha": 1e-6}, {"alpha": 1e6}, {"gamma": 1e6}, {"scale_factor": 0.95}, {"omega": 0.01}],
    }
    for values in extremes[method]:
        assert np.isfinite(flow.get(method, "cpu", **values).flow(pair)).all(), values


def test_pyramids_have_the_published_sizes():
    brox = flow.get("brox", "cpu").parameters
    assert [len(brox.level_sizes(*size)) for size in ((240, 320), (256, 340), (256, 256), (480, 640))] == [
        14,
        14,
        14,
        17,
    ]
    assert brox.level_sizes(240, 320)[-1] == (14, 18)
    assert flow.get("tvl1", "cpu").parameters.level_sizes(240, 320)[-1] == (98, 131)
    assert flow.get("tvl1", "cpu", preset="ipol").parameters.level_sizes(240, 320)[-1] == (15, 20)


# Threads


@pytest.mark.parametrize("method", PRESETS)
def test_threads_do_not_disturb_each_other(pair, method):
    expected = flow.get(method, "cpu").flow(pair)
    found: list[np.ndarray] = []

    def work(side: int) -> None:
        algorithm = flow.get(method, "cpu")
        for _ in range(5):
            algorithm.flow(pair[:, :side, :side])  # another size of workspace in between
            found.append(algorithm.flow(pair))

    threads = [threading.Thread(target=work, args=(32 + 16 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15 and all(np.array_equal(field, expected) for field in found)


def test_kernels_let_go_of_the_gil():
    """While one thread computes, another one's Python runs: it gets to count, instead of waiting for a whole field."""
    source = grey(render(Motion("any", velocity=(1.0, 0.0)), seed=1, frames=2, height=480, width=640))
    algorithm = flow.get("tvl1", "cpu", epsilon=0.0)
    algorithm.flow(source[:, :32, :32])
    thread = threading.Thread(target=algorithm.flow, args=(source,))
    longest = 0.0
    thread.start()
    last = time.perf_counter()
    started = last
    while thread.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    assert longest < 0.25 * (last - started)
