"""The CPU engine: the contract for every method and preset, and published and golden numbers."""

from __future__ import annotations

import numpy as np
import pytest

from flowprep import flow
from tests.flow_contract import FlowContract, frames  # noqa: F401 - a fixture


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


class TestBrox(FlowContract):
    method = "brox"
    backend = "cpu"


class TestBroxDefault(FlowContract):
    method = "brox"
    backend = "cpu"
    parameters = {"preset": "opencv-default"}  # noqa: RUF012


class TestBroxIPOL(FlowContract):
    method = "brox"
    backend = "cpu"
    parameters = {"preset": "ipol"}  # noqa: RUF012
