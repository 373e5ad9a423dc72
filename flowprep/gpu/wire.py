"""What goes over the sockets between parent, children and the process of a GPU: a packet is a JSON object, perhaps with
a file's handle."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

PACKET = 2**16  # bytes of the longest
MEMORIES = 2  # that a child shares: one is being computed while the other is filled or read


class LostError(Exception):
    """The other end is gone."""


class ServerLostError(Exception):
    """The process of the GPU is gone, or whoever waits for it has to act as if it were."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a new connection. A packet arrives as it was sent, or not at all."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, packet: dict[str, Any], handle: int | None = None) -> None:
    """Send ``packet``, and a handle to the file behind ``handle``. Raises LostError."""
    try:
        socket.send_fds(connection, [json.dumps(packet).encode()], [] if handle is None else [handle])
    except ConnectionError:
        raise LostError("it is gone") from None


def receive(connection: socket.socket) -> tuple[dict[str, Any], int | None]:
    """The next packet, waited for, and the handle that came with it. Raises LostError; ValueError for no packet."""
    try:
        data, handles, _, _ = socket.recv_fds(connection, PACKET, 1)
    except ConnectionError:
        raise LostError("it is gone") from None
    if not data:
        raise LostError("it is gone")
    handle = handles[0] if handles else None
    try:
        packet = json.loads(data)
        if not isinstance(packet, dict):
            raise ValueError(f"not a packet: {packet}")
    except ValueError:
        if handle is not None:
            os.close(handle)
        raise
    return packet, handle
