"""Requests of several children as one batch: who gets what, in which order, and the memory that it comes through."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flowprep import flow, quantise
from flowprep.flow import opencv
from flowprep.flow.batch import chains
from flowprep.gpu import batching
from flowprep.gpu.batching import Computer, Work
from flowprep.gpu.hosted import Hosted
from flowprep.gpu.memory import Request, SharedMemory
from tests.command import await_
from tests.gpu_data import DIS, HEIGHT, STORAGES, VIDEO, WIDTH, fields_of, request, settings

# --- batches ---


@given(pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_chains_have_every_pair_once_and_in_place(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.int32).T
    found = np.full((len(pairs), 2), -1)
    for chain in chains(first, second):
        steps = np.stack([chain.frames[:-1], chain.frames[1:]], axis=1)
        assert (found[chain.pairs] == -1).all()
        found[chain.pairs] = steps[::-1] if chain.backward else steps
    assert found.tolist() == [list(pair) for pair in pairs]


def test_consecutive_frames_are_one_chain_in_each_direction() -> None:
    here = np.arange(5, dtype=np.int32)
    (forward,), (backward,) = (list(chains(*numbers)) for numbers in ((here, here + 1), (here + 1, here)))
    assert forward.frames.tolist() == [0, 1, 2, 3, 4, 5] and not forward.backward
    assert backward.frames.tolist() == [5, 4, 3, 2, 1, 0] and backward.backward


@pytest.mark.parametrize("algorithm", [DIS, flow.get("tvl1", "cpu", warps=1)], ids=lambda one: one.method)
def test_any_pairs_of_frames(algorithm: flow.FlowAlgorithm) -> None:
    first, second = (np.array(numbers, np.int32) for numbers in ([0, 1, 4, 3, 2, 5, 0], [1, 2, 3, 2, 1, 0, 2]))
    found = algorithm.fields(VIDEO, first, second)
    for pair, field in zip(zip(first, second, strict=True), found, strict=True):
        assert np.array_equal(field, algorithm.flow(VIDEO[list(pair)])[0])


@given(
    parts=st.lists(
        st.tuples(
            st.integers(0, 8), st.integers(2, 4), st.sampled_from(["forward", "backward", "both"]), st.integers(0, 2)
        ),
        min_size=1,
        max_size=4,
    ),
    storage=st.sampled_from(sorted(STORAGES)),
)
@hypothesis_settings(max_examples=15, deadline=None)
def test_what_a_request_gets_does_not_depend_on_its_company(
    parts: list[tuple[int, int, str, int]], storage: str
) -> None:
    """And is what this process would store of its frames."""
    config = STORAGES[storage]
    hosted = Hosted(settings(config, backend="opencv"))
    frames = [VIDEO[start : start + count] for start, count, _, _ in parts]
    requests = [
        request(part, direction, config, first, 2) for part, (_, _, direction, first) in zip(frames, parts, strict=True)
    ]
    found = hosted.compute(0, requests, frames)
    for out, part, wanted in zip(found, frames, requests, strict=True):
        assert not isinstance(out, ValueError)
        fields = fields_of(part, wanted.direction)
        expected = quantise.quantise(fields, config)
        for name in ("levels", "scale", "zero", "extremes"):
            assert np.array_equal(out[name], getattr(expected, name)), name
        stats = quantise.statistics(fields, expected.extremes)
        assert np.array_equal(out["means"], stats[:, :, 0])
        by_direction = fields.reshape(len(wanted.directions), wanted.pairs, *fields.shape[1:])
        assert np.array_equal(out["originals"], by_direction[:, wanted.first :: 2].reshape(-1, *fields.shape[1:]))
        assert {name: (values.shape, str(values.dtype)) for name, values in out.items()} == {
            name: kind for name, kind in wanted.arrays().items() if name != "frames"
        }


@pytest.mark.parametrize("storage", [True, False])
def test_flow_that_is_not_finite_is_an_error(storage: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted = Hosted(settings(backend="opencv"))
    honest = flow.FlowAlgorithm.fields

    def spoilt(self: Any, *arguments: Any) -> Any:
        found = honest(self, *arguments)
        found[2, 1, 0, 0] = np.nan
        return found

    monkeypatch.setattr(flow.FlowAlgorithm, "fields", spoilt)
    wanted = request(VIDEO[:4], "forward", STORAGES["field"], every=2)
    with pytest.raises(FloatingPointError, match="not finite"):
        hosted.compute(0, [wanted if storage else replace(wanted, levels="")], [VIDEO[:4]])


class Recorder:
    """Stands in for what hosts an algorithm: notes its batches, and waits where it is told to."""

    at_once = 1

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()

    def compute(self, _thread: int, _requests: list[Request], frames: list[Any]) -> list[Any]:
        self.batches.append([int(part[0, 0, 0]) for part in frames])
        self.go_on.wait(10)
        return [{"number": part[0, 0, 0]} for part in frames]


def fail(error: BaseException) -> None:
    raise AssertionError(error)


def test_what_waits_is_merged_in_the_order_in_which_it_came() -> None:
    hosted, computer = Recorder(), Computer(fail)

    def work(number: int, pairs: int, height: int = HEIGHT) -> Work:
        frames = np.full((pairs + 1, height, WIDTH), number, np.uint8)
        return Work(hosted, request(frames, "forward", STORAGES["field"]), frames, 10, 60.0)  # type: ignore[arg-type]

    answers = [computer.compute(work(0, 1))]
    await_(lambda: hosted.batches, "the first batch")  # which holds all others up
    given_up = work(9, 1)
    answers += [computer.compute(item) for item in (work(1, 4), work(2, 4, HEIGHT + 1), work(3, 6), given_up)]
    answers += [computer.compute(item) for item in (work(4, 1), work(5, 5), work(6, 2, HEIGHT + 1))]
    computer.give_up(given_up)
    hosted.go_on.set()
    assert [int(answer.result(10)["number"]) for answer in answers if answer is not given_up.out] == list(range(7))
    assert hosted.batches == [[0], [1, 3], [2, 6], [4, 5]]  # of ten pairs at most; two sizes


class Greedy(opencv.DIS):
    """Takes memory of the GPU for as long as it may: notes which thread took it, and which gave it back."""

    at_once = 2
    holders: ClassVar[list[tuple[Greedy, int]]] = []

    def fields(self, frames: Any, first: Any, second: Any) -> Any:
        holder = (self, threading.get_ident())
        if holder not in self.holders:
            self.holders.append(holder)
        assert len(self.holders) <= 2 and len({thread for _, thread in self.holders}) == len(self.holders)
        return super().fields(frames, first, second)

    def give_back(self) -> None:
        self.holders.remove((self, threading.get_ident()))


def test_a_thread_holds_the_memory_of_one_algorithm_until_nobody_uses_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flow.BACKENDS["dis"], "greedy", f"{__name__}:Greedy")
    ended: list[BaseException] = []
    computer = Computer(ended.append)
    chosen = [settings(STORAGES[name], backend="greedy") for name in ("field", "blosc")]
    hosted = [computer.enter(number, one).result(60) for number, one in enumerate(chosen)]
    for _ in range(3):
        works = [
            Work(one, request(VIDEO[:3], "forward", storage.storage), VIDEO[:3], 2, 60.0)
            for one, storage in zip(hosted, chosen, strict=True)
            for _ in range(3)
        ]
        for answer in [computer.compute(work) for work in works]:
            answer.result(60)
        assert Greedy.holders and not ended
    for number in range(2):
        computer.leave(number)
    await_(lambda: not Greedy.holders, "all memory given back")
    assert not ended


# --- memory ---


def test_requests_that_make_no_sense() -> None:
    good = request(VIDEO[:3], "both", STORAGES["field"], 0, 16).to_json()
    assert Request.from_json(good).to_json() == good
    wrong: list[dict[str, Any]] = [
        {"frames": 1},
        {"frames": 10**9},
        {"height": -1},
        {"width": 2.5},
        {"levels": "float64"},
    ]
    for change in (*wrong, {"dtype": "object"}, {"direction": "up"}, {"first": "0"}, {"every": True}, {"more": 1}):
        with pytest.raises((ValueError, TypeError)):
            Request.from_json(good | change)


def test_memory_whose_size_the_other_process_could_change_is_refused() -> None:
    handle = os.memfd_create("x")
    os.ftruncate(handle, 4096)
    with pytest.raises((ValueError, OSError)):
        SharedMemory.received(handle)
    memory, handle = SharedMemory.make(4096)
    with pytest.raises(PermissionError):
        os.ftruncate(handle, 100)
    with pytest.raises(ValueError, match="do not fit"):
        memory.views(request(VIDEO[:3], "both", STORAGES["field"]))
    os.close(handle)


@pytest.mark.parametrize("fails", [3, 10**6])
def test_what_the_gpu_has_no_memory_for(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of three, because of one of them: it waits for memory; where none comes, that is for a new process."""
    compute, tries = Hosted.compute, 0

    def short_of_memory(hosted: Hosted, thread: int, requests: Any, frames: Any) -> Any:
        nonlocal tries
        if any(one.frames == 4 for one in requests) and tries < fails:
            tries += 1
            raise MemoryError("no memory left on the GPU")
        return compute(hosted, thread, requests, frames)

    monkeypatch.setattr(Hosted, "compute", short_of_memory)
    monkeypatch.setattr(batching, "MEMORY_PAUSE", 0.01)
    ended: list[BaseException] = []
    computer = Computer(ended.append)
    hosted = computer.enter(1, settings(backend="opencv")).result(60)
    most = computer.most(hosted, HEIGHT, WIDTH, 60.0).result(60)
    parts = [VIDEO[:frames] for frames in (3, 2, 4)]
    requests = [request(part, "forward", STORAGES["field"]) for part in parts]
    answers = [computer.compute(Work(hosted, one, part, most, 60.0)) for one, part in zip(requests, parts, strict=True)]
    for answer, part in list(zip(answers, parts, strict=True))[: 3 if fails == 3 else 2]:
        assert len(answer.result(60)["levels"]) == len(part) - 1
    if fails == 3:
        assert not ended
        return
    await_(lambda: ended, "the end of the process")
    assert isinstance(ended[0], MemoryError) and not answers[2].done()
