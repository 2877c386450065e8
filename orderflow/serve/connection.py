"""One client's connection. Reading from it and writing to it never block."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from gunicorn.workers.gthread import TConn

from orderflow.serve.arriving import Arriving

_READ_SIZE: Final = 64 * 1024
"""Bytes read in one call."""

_PIECES: Final = 16
"""Maximum number of pieces of answers written in one call; an answer usually has two, its head and its body."""


_ABORT: Final = struct.pack("ii", 1, 0)


class Stream:
    """A socket for gunicorn's parser and responses: reads return what was received before, and what is written is kept
    until the client accepts it."""

    def __init__(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._socket = client
        self.received = bytearray()
        self.unsent = 0
        """Bytes of answers that the client has not accepted."""
        self._answers: deque[memoryview] = deque()
        self.ended = False
        """Whether the client has closed its side."""

    def receive(self) -> int:
        """Receives available data; returns the number of bytes. Raises OSError: the connection is broken."""
        try:
            data = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return 0
        self.ended = not data
        self.received += data
        return len(data)

    def flush(self) -> None:
        """Sends as much of the kept data as the client accepts. Raises OSError: the connection is broken."""
        answers = self._answers
        while answers:
            try:
                sent = self._socket.sendmsg(list(islice(answers, _PIECES)))
            except (BlockingIOError, InterruptedError):
                return
            self.unsent -= sent
            while answers and sent >= len(answers[0]):
                sent -= len(answers.popleft())
            if sent:
                answers[0] = answers[0][sent:]

    def end_writing(self) -> None:
        """Tells the client that no data follows. Raises OSError: it has disconnected."""
        self._socket.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        return self._socket.fileno()

    def release(self) -> None:
        """Closes the socket. Data that the client has not accepted is discarded, here and in the kernel."""
        if self.unsent:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._socket.close()

    # Methods that gunicorn calls, in a thread.

    def recv(self, size: int) -> bytes:
        if not self.received and not self.ended:
            # Not b"", which would end the body: then the rest of it would later be read as a request.
            raise TimeoutError("the request is not complete")
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def sendall(self, data: bytes) -> None:
        if data:
            # Not copied: all clients may share the bytes of a long answer. `flush` sends head and body together.
            self._answers.append(memoryview(data))
            self.unsent += len(data)

    def send(self, data: bytes) -> int:
        # gunicorn's 100 Continue: it has been sent at the right time, or is no longer needed.
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, seconds: float | None) -> None:
        """Has no effect: this never blocks."""

    def setblocking(self, flag: bool) -> None:
        """Has no effect: this never blocks."""

    def shutdown(self, how: int) -> None:
        """Left to the loop, since data may be unsent."""

    def close(self) -> None:
        """Left to the loop as well."""


class Connection(TConn):  # type: ignore[misc]
    """What gunicorn knows about a client, and what the loop does with it next."""

    sock: Stream
    ready: Callable[[Connection], None]
    """What the loop calls when the socket is ready."""

    def __init__(self, cfg: Any, client: socket.socket, address: Any, server: Any) -> None:
        super().__init__(cfg, Stream(client), address, server)
        self.data_ready = True  # a thread gets it with a complete request, so it never waits
        self.arriving = Arriving()
        self.deadline = 0.0
        """When the wait for this client ends (`time.monotonic()`)."""
        self.reusable = True
        """Whether another request may follow."""
        self.events = 0
        """The socket events that the loop waits for."""
        self.held = 0
        """Bytes received and unsent, as the loop has counted them."""
        self.dropped = 0
        """Bytes that arrived after the last answer."""

    def take_back(self) -> None:
        """Keeps what the parser has read beyond its request, as the beginning of the next one."""
        if self.parser:
            self.sock.received[:0] = self.parser.unreader.take_buffered()
        self.arriving = Arriving()
