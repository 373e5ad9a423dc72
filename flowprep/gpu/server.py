"""The process that owns a GPU: ``python -P -m flowprep.gpu.server``, started by owner.py.

It sees one GPU, by CUDA_VISIBLE_DEVICES. Its stdin is a socket from its parent, by which it gets its connections, one
for each child, and with whose end it ends. A thread serves each connection; others compute (batching.py).

    parent   {"patience": 120}    and the socket of a new child
    child    {"open": settings}                        {"opened": true}
             {"most": [height, width]}                 {"pairs": 64}
             {"compute": request, "memory": 0}         {"computed": true}     with memory that is new, and its number
             anything                                  {"failed": kind, "text": ...}

While a child waits it gets {"alive": true} four times a second: that others come first is no silence. A batch that
takes longer than a child may be silent ends this process. So does any error while computing: one of CUDA stays, and all
later calls would fail with it; flow that is not finite tells of another; and where others have taken the memory of the
GPU, a new process plans with what is left. What it was is the last line that is written to stderr.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from flowprep.config import MIN_SIDE, Settings
from flowprep.errors import FlowprepError, Verdict, VideoError
from flowprep.gpu.batching import Computer, Work
from flowprep.gpu.hosted import Hosted
from flowprep.gpu.memory import LONGEST_SIDE, Request, SharedMemory
from flowprep.gpu.wire import MEMORIES, LostError, receive, send

BEAT = 0.25  # s between two signs of life

T = TypeVar("T")


class Connection:
    """The conversation with one child."""

    def __init__(self, connection: socket.socket, patience: float, computer: Computer) -> None:
        self._socket = connection
        self._patience = patience
        self._computer = computer
        self._hosted: Hosted | None = None
        self._most: dict[tuple[int, int], int] = {}  # fields of a batch, by size
        self._memories: dict[int, SharedMemory] = {}

    def serve(self) -> None:
        """Answer until the child is gone."""
        try:
            while True:
                send(self._socket, self._next_answer())
        except LostError:
            pass
        finally:
            self._socket.close()
            self._computer.leave(id(self))

    def _next_answer(self) -> dict[str, Any]:
        """That to the next packet. What no child says, and one that has gone wild does, is the failure of that one."""
        try:
            return self._answer(*receive(self._socket))
        except LostError:
            raise
        except VideoError as error:
            return {"failed": error.verdict.value, "text": error.reason}
        except FlowprepError as error:
            return {"failed": "refused", "text": str(error)}
        except MemoryError as error:
            return {"failed": Verdict.MEMORY.value, "text": str(error)}
        except ValueError as error:
            return {"failed": "value", "text": str(error)}
        except Exception as error:  # noqa: BLE001 - anything can be wrong with a packet
            return {"failed": "value", "text": f"{type(error).__name__}: {error}"}

    def _answer(self, packet: dict[str, Any], handle: int | None) -> dict[str, Any]:
        if handle is not None:
            number = packet.get("memory")
            if type(number) is not int or number not in range(MEMORIES):
                os.close(handle)
                raise ValueError(f"memory {number}")
            self._memories[number] = SharedMemory.received(handle)
        if "open" in packet:
            self._hosted = self._await(self._computer.enter(id(self), Settings.from_json(packet["open"])))
            return {"opened": True}
        if self._hosted is None:
            raise ValueError("no settings were given")
        if "most" in packet:
            height, width = packet["most"]
            if not all(type(side) is int and MIN_SIDE <= side <= LONGEST_SIDE for side in (height, width)):
                raise ValueError(f"no size of frames: {packet}")
            return {"pairs": self._most_of(self._hosted, height, width)}
        return self._compute(self._hosted, Request.from_json(packet["compute"]), self._memories[packet["memory"]])

    def _compute(self, hosted: Hosted, request: Request, memory: SharedMemory) -> dict[str, Any]:
        views = memory.views(request)
        most = self._most_of(hosted, request.height, request.width)
        if request.pairs > most:
            raise ValueError(f"{request.pairs} pairs in one request, where a batch has {most}")
        work = Work(hosted, request, views["frames"], most, self._patience)
        try:
            out = self._await(self._computer.compute(work))
        except LostError:
            self._computer.give_up(work)
            raise
        for name, values in out.items():
            views[name][:] = values
        return {"computed": True}

    def _most_of(self, hosted: Hosted, height: int, width: int) -> int:
        size = height, width
        if size not in self._most:
            self._most[size] = self._await(self._computer.most(hosted, height, width, self._patience))
        return self._most[size]

    def _await(self, answer: Future[T]) -> T:
        """The result, the child being told meanwhile that it comes. Raises LostError when the child is gone."""
        while True:
            with suppress(TimeoutError):
                return answer.result(BEAT)
            with suppress(BlockingIOError):  # it has not read the last ones: it is not waiting
                self._socket.setblocking(False)
                try:
                    send(self._socket, {"alive": True})
                finally:
                    self._socket.setblocking(True)


def main() -> None:
    """Serve the children of the parent until it ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = socket.socket(fileno=os.dup(0))
    computer = Computer(_die)
    threading.Thread(target=_watch, args=(computer,), daemon=True).start()
    send(parent, {"ready": True})
    while True:
        try:
            packet, handle = receive(parent)
        except LostError:
            os._exit(0)  # whatever is being computed
        assert handle is not None
        connection = Connection(socket.socket(fileno=handle), float(packet["patience"]), computer)
        threading.Thread(target=connection.serve, daemon=True).start()


def _die(error: BaseException) -> None:
    sys.stderr.write(f"\n{type(error).__name__}: {' '.join(str(error).split())}\n")
    sys.stderr.flush()
    os._exit(1)


def _watch(computer: Computer) -> None:
    """End this process when one piece of work takes too long. What is counted is time in which it could run."""
    last, seconds = [*computer.at_work], [0.0] * len(computer.at_work)
    while True:
        time.sleep(BEAT)
        for thread, at_work in enumerate(computer.at_work):
            seconds[thread] = seconds[thread] + BEAT if at_work is last[thread] else 0.0
            last[thread] = at_work
            if at_work and seconds[thread] > at_work.patience:
                _die(TimeoutError(f"{at_work.what} has taken more than {at_work.patience:.0f} s (--stall-seconds)"))


if __name__ == "__main__":
    main()
