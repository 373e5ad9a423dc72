"""What every flow method on every backend promises, as tests. A backend proves itself with a few lines:

class TestTVL1OnMyBackend(FlowContract):
    method = "tvl1"
    backend = "mine"
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from flowprep import flow
from flowprep.errors import UsageError, Verdict, VideoError
from flowprep.flow import FlowAlgorithm
from flowprep.flow.metrics import end_point_error
from flowprep.synthetic import Clip, Motion, render

HEIGHT, WIDTH = 64, 80

SHIFTS = [(2, -1), (-3, 0), (0, 3), (-1, -2)]
AFFINE = [
    Motion("rotate", rotation=2.0),
    Motion("rotate_back", rotation=-2.0),
    Motion("zoom_in", zoom=(1.04, 1.04)),
    Motion("zoom_out", zoom=(0.96, 0.96)),
    Motion("widen", zoom=(1.04, 1.0)),
    Motion("heighten", zoom=(1.0, 1.04)),
]
SIZES = [(16, 16), (16, 200), (200, 16), (17, 19), (31, 64), (64, 31), (33, 47)]


def clip(motion: Motion, frames: int = 2, height: int = HEIGHT, width: int = WIDTH, seed: int = 5) -> Clip:
    return render(motion, seed=seed, frames=frames, height=height, width=width)


def grey(source: Clip) -> NDArray[np.uint8]:
    """(T, H, W): the green channel, which is a texture of full contrast."""
    return np.ascontiguousarray(source.frames[..., 1])


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """Three frames that move in no simple way."""
    return some_frames(HEIGHT, WIDTH)


def some_frames(height: int, width: int) -> NDArray[np.uint8]:
    motion = Motion("any", velocity=(1.3, -0.7), rotation=1.0, zoom=(1.01, 0.99))
    return grey(clip(motion, frames=3, height=height, width=width))


class FlowContract:
    """Subclass it with ``method`` and ``backend``, and where need be the parameters and tolerances."""

    method: ClassVar[str]
    backend: ClassVar[str]
    parameters: ClassVar[dict[str, Any]] = {}
    height: ClassVar[int] = HEIGHT  # px, of the frames; the fixture ``frames`` of the module must be of that size, too
    width: ClassVar[int] = WIDTH
    margin: ClassVar[int] = 8  # px: at the border a method has to guess

    shift_tolerance: ClassVar[float] = 0.05  # px: of the median
    affine_tolerance: ClassVar[float] = 0.1  # px: mean end-point error inside
    mirror_tolerance: ClassVar[float] = 0.03  # px: mean difference inside
    float_tolerance: ClassVar[float] = 0.0  # px: between 8-bit frames and the same values as floats, anywhere

    def algorithm(self) -> FlowAlgorithm:
        return flow.get(self.method, self.backend, **self.parameters)

    def clip(self, motion: Motion) -> Clip:
        return clip(motion, height=self.height, width=self.width)

    def inside(self, field: NDArray[Any]) -> NDArray[Any]:
        return field[..., self.margin : -self.margin, self.margin : -self.margin]

    # What it finds

    @pytest.mark.parametrize("shift", SHIFTS)
    def test_an_integer_shift(self, shift):
        """Channel 0 is to the right, channel 1 downwards, and content that moves by +2 has flow +2."""
        field = self.algorithm().flow(grey(self.clip(Motion("shift", velocity=shift))))[0]
        assert np.median(self.inside(field), axis=(1, 2)) == pytest.approx(shift, abs=self.shift_tolerance)

    @pytest.mark.parametrize("motion", AFFINE, ids=lambda motion: motion.name)
    def test_rotation_and_zoom(self, motion):
        source = self.clip(motion)
        field = self.algorithm().flow(grey(source))[0]
        error = self.inside(end_point_error(field, source.flow[0]))
        assert error.mean() < self.affine_tolerance
        assert error.mean() < self.inside(np.hypot(*source.flow[0])).mean() / 4  # far better than no flow at all

    def test_no_motion(self, frames):
        field = self.algorithm().flow(np.stack([frames[0], frames[0]]))
        assert np.abs(field).mean() < 0.01
        flat = self.algorithm().flow(np.full((2, self.height, self.width), 100, np.uint8))
        assert np.abs(flat).max() < 0.01

    def test_a_horizontal_mirror_negates_u(self, frames):
        self.check_mirror(frames, axis=2, signs=(-1, 1))

    def test_a_vertical_mirror_negates_v(self, frames):
        self.check_mirror(frames, axis=1, signs=(1, -1))

    def check_mirror(self, frames, axis, signs):
        field = self.algorithm().flow(frames)
        mirrored = self.algorithm().flow(np.flip(frames, axis))
        expected = np.flip(field, axis + 1) * np.array(signs, np.float32)[:, None, None]
        assert np.abs(self.inside(mirrored - expected)).mean() < self.mirror_tolerance
        assert np.abs(self.inside(expected)).mean() > 3 * self.mirror_tolerance  # else the signs would not show

    def test_backward_is_the_flow_of_the_reversed_clip(self, frames):
        algorithm = self.algorithm()
        assert np.array_equal(algorithm.backward(frames), algorithm.flow(frames[::-1])[::-1])

    def test_both_directions_at_once_are_each_of_them(self, frames):
        algorithm = self.algorithm()
        forward, backward = algorithm.both(frames)
        assert np.array_equal(forward, algorithm.flow(frames))
        assert np.array_equal(backward, algorithm.backward(frames))
        assert [len(fields) for fields in algorithm.both(frames[:1])] == [0, 0]

    def test_row_i_of_backward_leads_from_frame_i_plus_1_to_frame_i(self):
        """In a clip whose second step goes the other way, and further."""
        first, second = (grey(self.clip(Motion("shift", velocity=shift)))[1] for shift in ((1, 0), (-2, 0)))
        start = grey(self.clip(Motion("rest")))[0]
        field = self.algorithm().backward(np.stack([start, first, second]))
        assert field.shape == (2, 2, self.height, self.width) and field.dtype == np.float32
        medians = np.median(self.inside(field), axis=(2, 3))
        assert medians == pytest.approx(np.array([[-1, 0], [3, 0]]), abs=2 * self.shift_tolerance)

    # Shapes, types, refusals

    @pytest.mark.parametrize("count", [1, 2, 3])
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_t_frames_give_t_minus_1_fields(self, frames, count, dtype):
        field = self.algorithm().flow(frames[:count].astype(dtype))
        assert field.shape == (count - 1, 2, self.height, self.width)
        assert field.dtype == np.float32 and field.flags.c_contiguous
        assert np.isfinite(field).all()

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_any_size_from_16_pixels_on(self, height, width):
        source = grey(clip(Motion("shift", velocity=(1, 0)), height=height, width=width))
        field = self.algorithm().flow(source)
        assert field.shape == (1, 2, height, width) and np.isfinite(field).all()
        assert np.array_equal(field, self.algorithm().flow(source))  # no value comes from outside of the frame

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        st.tuples(st.just(2), st.integers(16, 40), st.integers(16, 40)).flatmap(
            lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 255), fill=st.integers(0, 255))
        )
    )
    def test_any_frames_give_finite_flow(self, pair):
        field = self.algorithm().flow(pair)
        assert field.shape == (1, 2, *pair.shape[1:]) and np.isfinite(field).all()

    @pytest.mark.parametrize("shape", [(2, 15, 80), (2, 64, 15), (1, 8, 8), (2, 0, 20)])
    def test_under_16_pixels_is_too_small(self, shape):
        with pytest.raises(VideoError, match=f"{shape[2]}x{shape[1]}") as error:
            self.algorithm().flow(np.zeros(shape, np.uint8))
        assert error.value.verdict is Verdict.TOO_SMALL

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (np.zeros((64, 80), np.uint8), "T, H, W"),
            (np.zeros((0, 64, 80), np.uint8), "T >= 1"),
            (np.zeros((2, 64, 80, 3), np.uint8), "T, H, W"),
            (np.zeros((2, 64, 80), np.float64), "float64"),
            (np.zeros((2, 64, 80), np.int16), "int16"),
            (np.zeros((2, 64, 80), bool), "bool"),
            (np.zeros((2, 64, 80), ">f4"), ">f4"),
            ([[[0]]], "list"),
            (np.full((2, 64, 80), np.nan, np.float32), "nan"),
            (np.full((2, 64, 80), np.inf, np.float32), "inf"),
            (np.full((2, 64, 80), -0.5, np.float32), "-0.5"),
            (np.full((2, 64, 80), 255.5, np.float32), "255.5"),
            ([np.zeros((64, 80), np.uint8)] * 2, "list of frames"),
            ([np.zeros((64, 80), np.uint8), np.zeros((64, 82), np.uint8)], "frame 1 is"),
        ],
    )
    def test_what_is_no_clip_is_refused(self, bad, message):
        for function in (self.algorithm().flow, self.algorithm().both, self.algorithm().backward):
            if isinstance(bad, list) and function.__name__ == "backward":
                continue
            with pytest.raises(ValueError, match=message):
                function(bad)

    def test_one_bad_value_is_enough(self, frames):
        spoilt = frames.astype(np.float32)
        spoilt[1, 7, 9] = np.nan
        with pytest.raises(ValueError, match=r"frame 1: .*nan"):
            self.algorithm().flow(spoilt)

    # What it does not depend on

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_frames_are_never_written_to(self, frames, dtype):
        given_frames = frames[:2].astype(dtype)
        before = given_frames.copy()
        given_frames.setflags(write=False)
        self.algorithm().flow(given_frames)
        self.algorithm().backward(given_frames)
        assert np.array_equal(given_frames, before)

    def test_a_batch_equals_its_pairs(self, frames):
        algorithm = self.algorithm()
        batch = algorithm.flow(frames)
        pairs = [algorithm.flow(frames[i : i + 2]) for i in range(len(frames) - 1)]
        assert np.array_equal(batch, np.concatenate(pairs))

    def test_what_ran_before_leaves_no_trace(self, frames):
        """A small pair makes some libraries lower their number of pyramid levels for good."""
        algorithm = self.algorithm()
        before = algorithm.flow(frames[:2])
        algorithm.flow(np.ascontiguousarray(frames[:2, :20, :20]))
        algorithm.flow(frames[1:].astype(np.float32))
        assert np.array_equal(algorithm.flow(frames[:2]), before)
        assert np.array_equal(self.algorithm().flow(frames[:2]), before)

    def test_the_layout_in_memory_does_not_matter(self, frames):
        expected = self.algorithm().flow(frames)
        scattered = np.asfortranarray(np.repeat(frames, 2, axis=2))[:, :, ::2]
        assert np.array_equal(self.algorithm().flow(scattered), expected)

    def test_floats_of_whole_values_are_8_bit_frames(self, frames):
        levels = frames[:2]
        difference = self.algorithm().flow(levels) - self.algorithm().flow(levels.astype(np.float32))
        assert np.abs(difference).max() <= self.float_tolerance

    def test_copies_are_as_good(self, frames):
        """Dask, multiprocessing and others pickle what they hand over."""
        algorithm = self.algorithm()
        expected = algorithm.flow(frames)
        for copied in (copy.deepcopy(algorithm), pickle.loads(pickle.dumps(algorithm))):
            assert np.array_equal(copied.flow(frames), expected)

    # Parameters

    def test_parameters_are_complete_and_read_back(self):
        parameters = self.algorithm().parameters
        tree = json.loads(json.dumps(parameters.to_json()))
        assert set(self.parameters) <= set(tree)
        assert all(isinstance(value, int | float | str | bool) for value in tree.values())
        assert type(parameters).of(self.method, tree) == parameters
        assert type(parameters).of(self.method, {name: str(value) for name, value in tree.items()}) == parameters

    def test_a_parameter_that_does_not_exist(self):
        with pytest.raises(UsageError, match=f"{self.method} has no parameter"):
            flow.get(self.method, self.backend, no_such_parameter=1)

    def test_a_misspelt_parameter_is_guessed(self):
        for name in self.algorithm().parameters.to_json():
            with pytest.raises(UsageError, match=f"Did you mean '{name}'"):
                flow.get(self.method, self.backend, **{f"{name}x": 1})

    @pytest.mark.parametrize("value", ["many", "", None, [1], "nan", float("inf"), 1e30])
    def test_a_value_of_the_wrong_type(self, value):
        for name, default in self.algorithm().parameters.to_json().items():
            if not isinstance(default, str | bool):
                with pytest.raises(UsageError, match=f"{self.method}.{name}"):
                    flow.get(self.method, self.backend, **{name: value})

    def test_it_says_what_it_is(self):
        algorithm = self.algorithm()
        assert (algorithm.method, algorithm.backend) == (self.method, self.backend)
        assert algorithm.unavailable() == "" and flow.backends(self.method)[self.backend] == ""
        assert any(character.isdigit() for character in algorithm.engine())
        assert 0 < algorithm.seconds_per_megapixel() < 1000
