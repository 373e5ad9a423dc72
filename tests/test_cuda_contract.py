"""The contract of flow methods, kept by the kernels of GPUs: in the simulator, on frames as small as they may be."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from flowprep import flow
from flowprep.flow import FlowAlgorithm, Greys, cuda
from flowprep.synthetic import Motion
from tests.cuda_simulator import simulated
from tests.flow_contract import FlowContract, grey, some_frames

HEIGHT, WIDTH = 16, 18
LITTLE = {"nscales": 1, "warps": 1, "inner_iterations": 1, "outer_iterations": 1, "median_filtering": 1}
ENOUGH = {"nscales": 1, "warps": 5, "inner_iterations": 8, "outer_iterations": 1, "epsilon": 0.05}


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    return some_frames(HEIGHT, WIDTH)


@pytest.fixture(autouse=True)
def a_gpu_seems_to_be_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")


def computed(method: str, parameters: dict[str, Any], frames: Greys) -> NDArray[np.float32]:
    return flow.get(method, "cuda", **parameters).flow(frames)


class SimulatedTVL1(cuda.TVL1):
    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        return simulated(computed, self.method, self.parameters.to_json(), frames)


class SimulatedBrox(cuda.Brox):
    def _flow(self, frames: Greys) -> NDArray[np.float32]:
        return simulated(computed, self.method, self.parameters.to_json(), frames)


class SimulatedContract(FlowContract):
    backend = "cuda"
    height, width, margin = HEIGHT, WIDTH, 4
    simulation: ClassVar[type[FlowAlgorithm]]
    thorough: ClassVar[dict[str, Any]]  # parameters with which motion is found; the others are for a quick run

    def algorithm(self) -> FlowAlgorithm:
        return self.simulation(self.simulation.parameters_type.of(self.method, self.parameters))

    # What takes many iterations has one case here: fields are compared with the CPU engine's anyway.

    @pytest.mark.parametrize("shift", [(-1, 0)])
    def test_an_integer_shift(self, shift):
        given = self.clip(Motion("shift", velocity=shift))
        found = simulated(computed, self.method, self.thorough, grey(given))[0]
        assert np.median(self.inside(found), axis=(1, 2)) == pytest.approx(shift, abs=0.15)

    @pytest.mark.parametrize(("height", "width"), [(29, 16)])
    def test_any_size_from_16_pixels_on(self, height, width):
        super().test_any_size_from_16_pixels_on(height, width)

    @pytest.mark.parametrize("count", [1, 3])
    def test_t_frames_give_t_minus_1_fields(self, frames, count):
        super().test_t_frames_give_t_minus_1_fields(frames, count, np.float32)

    test_rotation_and_zoom = test_a_vertical_mirror_negates_v = test_any_frames_give_finite_flow = None
    test_row_i_of_backward_leads_from_frame_i_plus_1_to_frame_i = None
    # What the process with the simulator gets is a copy anyway.
    test_frames_are_never_written_to = test_copies_are_as_good = None


class TestTVL1(SimulatedContract):
    method = "tvl1"
    simulation = SimulatedTVL1
    parameters = LITTLE
    thorough = ENOUGH
    mirror_tolerance = 0.02


class TestBrox(SimulatedContract):
    method = "brox"
    simulation = SimulatedBrox
    parameters: ClassVar[dict[str, Any]] = {"inner_iterations": 2, "solver_iterations": 4, "outer_iterations": 1}
    thorough: ClassVar[dict[str, Any]] = {"inner_iterations": 5, "solver_iterations": 5, "outer_iterations": 1}
    mirror_tolerance = 0.006
