"""One client's connection. Neither reading nor writing on it ever waits."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from gunicorn.workers.gthread import TConn

from orderflow.serve.arriving import Arriving

_AT_ONCE: Final = 64 * 1024
"""Bytes read in one call."""

_PIECES: Final = 16
"""Pieces of an answer written in one call: its head and its body, as a rule."""


_ABORT: Final = struct.pack("ii", 1, 0)


class Stream:
    """A socket as gunicorn's parser and responses use one: what is read has been received before, and what is written
    is kept until the client takes it."""

    def __init__(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._socket = client
        self.received = bytearray()
        self.unsent = 0
        """Bytes of answers that the client has not taken."""
        self._answers: deque[memoryview] = deque()
        self.ended = False
        """Whether the client has closed its side."""

    def receive(self) -> int:
        """Takes what has come; the number of bytes, 0 for none. Raises OSError: the connection is broken."""
        try:
            data = self._socket.recv(_AT_ONCE)
        except (BlockingIOError, InterruptedError):
            return 0
        self.ended = not data
        self.received += data
        return len(data)

    def flush(self) -> None:
        """Sends of what is kept as much as the client takes. Raises OSError: the connection is broken."""
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
        """Tells the client that nothing follows. Raises OSError: it is gone."""
        self._socket.shutdown(socket.SHUT_WR)

    def fileno(self) -> int:
        return self._socket.fileno()

    def release(self) -> None:
        """Closes the socket; what the client has not taken is thrown away, here and in the kernel."""
        if self.unsent:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._socket.close()

    # What gunicorn calls, in a thread.

    def recv(self, size: int) -> bytes:
        if not self.received and not self.ended:
            # Not b"", which would be the end of a body: then what comes of it later would be read as a request.
            raise TimeoutError("the request is not whole")
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    def sendall(self, data: bytes) -> None:
        if data:
            # Not copied: a long answer may be the same object for all. Head and body leave together in `flush`.
            self._answers.append(memoryview(data))
            self.unsent += len(data)

    def send(self, data: bytes) -> int:
        # 100 Continue, which was sent when it was time, or has become needless.
        return len(data)

    def gettimeout(self) -> float:
        return 0.0

    def settimeout(self, seconds: float | None) -> None:
        """It never waits."""

    def setblocking(self, flag: bool) -> None:
        """It never waits."""

    def shutdown(self, how: int) -> None:
        """Left to the loop: something may be unsent."""

    def close(self) -> None:
        """Left to the loop as well."""


class Connection(TConn):  # type: ignore[misc]
    """What gunicorn knows of a client, and what the loop does with it next."""

    sock: Stream
    ready: Callable[[Connection], None]
    """What the loop calls when the socket is ready."""

    def __init__(self, cfg: Any, client: socket.socket, address: Any, server: Any) -> None:
        super().__init__(cfg, Stream(client), address, server)
        self.data_ready = True  # a thread gets it with a whole request: it has nothing to wait for
        self.arriving = Arriving()
        self.deadline = 0.0
        """When waiting for this client ends: `time.monotonic()`."""
        self.reusable = True
        """Whether another request may follow."""
        self.events = 0
        """What of the socket is waited for."""
        self.held = 0
        """Bytes received and unsent, as the loop has counted them."""
        self.dropped = 0
        """Bytes that came after the answer, when none was expected any more."""

    def take_back(self) -> None:
        """What the parser has read beyond its request is the beginning of the next."""
        if self.parser:
            self.sock.received[:0] = self.parser.unreader.take_buffered()
        self.arriving = Arriving()
