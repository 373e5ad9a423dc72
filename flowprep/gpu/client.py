"""A child's end of its connection to the process that computes flow on a GPU."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowprep.config import Settings
from flowprep.errors import RefusedError, Verdict, VideoError
from flowprep.flow import Greys, check_frames
from flowprep.gpu.memory import Request, SharedMemory
from flowprep.gpu.wire import MEMORIES, LostError, ServerLostError, receive, send
from flowprep.quantise import Quantised, level_type

TRIAL = (2, 64, 64)  # frames and their size


@dataclass(frozen=True)
class CodedFields:
    """Fields of one direction as they are stored. Levels and originals hold until the request after the next."""

    quantised: Quantised
    means: NDArray[np.float32]  # (n, 2) px
    originals: dict[int, NDArray[np.float32]]  # some of them, by number: (2, H, W) px

    @property
    def stats(self) -> NDArray[np.float32]:
        """(n, 2, 3): mean, minimum and maximum of u and v, px."""
        return np.concatenate([self.means[:, :, None], self.quantised.extremes], axis=2)


@dataclass(eq=False)
class Pending:
    """Something that was asked for."""

    request: Request | None = None
    memory: int = 0  # number of that which it uses
    answer: dict[str, Any] = field(default_factory=dict)  # once it is there


class RemoteFlow:
    """The flow of some settings, computed by the process of a GPU. Used by one thread.

    Every method may raise ServerLostError, RefusedError where the method cannot run there, VideoError (too_large) for
    frames that do not fit into the GPU's memory, ValueError for what that process does not understand, and what
    :meth:`flowprep.flow.FlowAlgorithm.flow` raises for frames.
    """

    def __init__(self, connection: socket.socket, settings: Settings, waits: Callable[[bool], None]) -> None:
        """``waits`` is told when a wait for that process begins, now and then while it lasts, and when it is over."""
        self._connection = connection
        self._settings = settings
        self._waits = waits
        self._most: dict[tuple[int, int], int] = {}
        self._waiting: deque[Pending] = deque()  # without an answer, the oldest first: that comes next
        self._memories: list[SharedMemory | None] = [None] * MEMORIES
        self._users = [Pending()] * MEMORIES  # the last of each memory
        self._turn = 0
        self._answer(self._ask({"open": settings.to_json()}))

    def try_out(self) -> None:
        """Have something computed that no GPU fails on: noise."""
        self.take(self.begin(np.random.default_rng(0).integers(0, 256, TRIAL, np.uint8), 0, 1))

    def pairs_in_a_call(self, height: int, width: int) -> int:
        """Pairs of frames of that size that one request may have: as many as the GPU takes at once."""
        size = height, width
        if size not in self._most:
            self._most[size] = int(self._answer(self._ask({"most": size}))["pairs"])
        directions = 2 if self._settings.flow.direction == "both" else 1
        return max(1, self._most[size] // directions)  # where but one fits, one direction comes after the other

    def begin(self, frames: Greys, first: int, every: int) -> Pending:
        """Have the fields of consecutive ``frames`` (T, H, W), T >= 2, computed and made levels.

        Of the pairs first, first + every ... the fields are kept in px, too. Two requests may be on their way at once.
        """
        return self._send(frames, self._settings.flow.direction, level_type(self._settings.storage), first, every)

    def take(self, pending: Pending) -> dict[str, CodedFields]:
        """What was begun, by direction: forward, backward or both."""
        views, request = self._take(pending)
        taken = {}
        for i, direction in enumerate(request.directions):
            own = slice(i * request.pairs, (i + 1) * request.pairs)
            originals = views["originals"][i * len(request.originals) :]
            scale, zero, extremes, means = (views[name][own].copy() for name in ("scale", "zero", "extremes", "means"))
            taken[direction] = CodedFields(
                Quantised(views["levels"][own], scale, zero, extremes),
                means,
                dict(zip(request.originals, originals, strict=False)),
            )
        return taken

    def backward(self, frames: Greys) -> NDArray[np.float32]:
        """Backward flow, as :meth:`flowprep.flow.FlowAlgorithm.backward` gives it."""
        views, _ = self._take(self._send(frames, "backward", "", 0, 1))
        fields: NDArray[np.float32] = views["originals"].copy()
        return fields

    def _send(self, frames: Greys, direction: str, levels: str, first: int, every: int) -> Pending:
        check_frames(frames)
        count, height, width = frames.shape
        request = Request(count, height, width, str(frames.dtype), direction, levels, first, every)
        number = self._turn = (self._turn + 1) % MEMORIES
        while self._users[number] in self._waiting:  # of a video that was given up: nobody will take it
            self._receive()
        memory, handle = self._memories[number], None
        try:
            if memory is None or memory.size < request.bytes:
                self._memories[number] = None  # the old one goes before the new one comes
                memory, handle = SharedMemory.make(request.bytes)
                self._memories[number] = memory
            memory.views(request)["frames"][:] = frames
            pending = self._ask({"compute": request.to_json(), "memory": number}, handle)
        finally:
            if handle is not None:
                os.close(handle)
        pending.request, pending.memory = request, number
        self._users[number] = pending
        return pending

    def _take(self, pending: Pending) -> tuple[dict[str, NDArray[Any]], Request]:
        memory = self._memories[pending.memory]
        assert pending.request and memory and self._users[pending.memory] is pending
        self._answer(pending)
        return memory.views(pending.request), pending.request

    def _ask(self, packet: dict[str, Any], handle: int | None = None) -> Pending:
        try:
            send(self._connection, packet, handle)
        except LostError:
            raise ServerLostError from None
        self._waiting.append(Pending())
        return self._waiting[-1]

    def _answer(self, pending: Pending) -> dict[str, Any]:
        while pending in self._waiting:
            self._receive()
        kind, text = pending.answer.get("failed"), pending.answer.get("text", "")
        if kind == "refused":
            raise RefusedError(text)
        if kind in {verdict.value for verdict in Verdict}:  # the GPU's memory is too small for it
            raise VideoError(Verdict(kind), text)
        if kind:
            raise ValueError(text)
        return pending.answer

    def _receive(self) -> None:
        """Wait for the next answer."""
        answer: dict[str, Any] = {"alive": True}
        while "alive" in answer:
            self._waits(True)
            try:
                answer, _ = receive(self._connection)
            except LostError:
                raise ServerLostError from None
        self._waits(False)
        self._waiting.popleft().answer = answer
