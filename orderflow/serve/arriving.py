"""Detects when a request is complete while it arrives, so that no thread waits for the rest of one.

It decides when gunicorn's parser receives a request, never what the request means: a malformed one goes to the parser
at once, which refuses it. Framing: https://www.rfc-editor.org/rfc/rfc9112#section-6.3
"""

from __future__ import annotations

import re
from typing import Final

from orderflow.errors import Problem
from orderflow.web.parsing import MAX_BODY

_MAX_HEAD: Final = 32 * 1024
"""Bytes of the longest head (request line and fields)."""

_MAX_CHUNKED: Final = 2 * MAX_BODY
"""Bytes of the longest chunked body as it is sent: small chunks consist mostly of framing."""

_END: Final = b"\r\n\r\n"

_FIELDS: Final = re.compile(rb"\r\n(content-length|transfer-encoding|expect):[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)", re.I)

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class Arriving:
    """How much of one request has arrived. There is one per request, and it remembers what it has read."""

    __slots__ = ("_at", "_body", "_chunked", "_needed", "_size", "waits_for_100")

    def __init__(self) -> None:
        self.waits_for_100 = False
        """Whether the client sends its body only after it has received 100 Continue (RFC 9110, 10.1.1)."""
        self._body = 0
        self._needed = 0
        self._chunked = False
        self._at = 0
        self._size = 0

    def whole(self, received: bytearray) -> bool:
        """Whether the parser can read or refuse the request with what has been received. Raises Problem: too long."""
        if not self._body and not self._head_ended(received):
            return False
        if self._chunked:
            return self._last_chunk(received)
        return len(received) >= self._needed

    def _head_ended(self, received: bytearray) -> bool:
        end = received.find(_END, self._at)
        if (len(received) if end < 0 else end) > _MAX_HEAD:
            if b"\r\n" in received[:_MAX_HEAD]:
                raise Problem(431, "Request Header Fields Too Large", f"the head is longer than {_MAX_HEAD} bytes")
            raise Problem(414, "URI Too Long", "the request line is too long")
        if end < 0:
            if _BARE_LF.search(received, self._at):
                self._body = self._needed = 1  # the parser refuses it; the end of such a head would never be found
                return True
            self._at = max(0, len(received) - len(_END) + 1)
            return False
        self._body = self._needed = self._at = end + len(_END)
        self._read_fields(bytes(received[: end + 2]))
        return True

    def _read_fields(self, head: bytes) -> None:
        found = [(name.lower(), value) for name, value in _FIELDS.findall(head)]
        lengths = [value for name, value in found if name == b"content-length"]
        codings = [value.lower() for name, value in found if name == b"transfer-encoding"]
        expected = [value.lower() for name, value in found if name == b"expect"]
        if len(lengths) + bool(codings) > 1:
            return  # ambiguous, so the parser refuses it
        if any(value != b"100-continue" for value in expected):
            return  # the parser answers 417
        if codings and codings[-1].endswith(b"chunked"):
            self._chunked = True
        elif lengths and _LENGTH.fullmatch(lengths[0]):
            if int(lengths[0]) > MAX_BODY:
                raise _too_long()
            self._needed += int(lengths[0])
        # An HTTP/1.0 client doesn't wait: https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1
        self.waits_for_100 = bool(expected) and head.partition(b"\r\n")[0].endswith(b"HTTP/1.1")

    def _last_chunk(self, received: bytearray) -> bool:
        if len(received) - self._body > _MAX_CHUNKED:
            raise _too_long()
        while (end := received.find(b"\r\n", self._at)) >= 0:
            size = _SIZE.match(received[self._at : end])
            if not size:
                return True  # the parser refuses it
            length = int(size[1], 16)
            if length == 0:
                return received.find(_END, end) >= 0
            if self._size + length > MAX_BODY:
                raise _too_long()
            following = end + 2 + length + 2
            if following > len(received):
                return False
            self._size += length
            self._at = following
        return False


def _too_long() -> Problem:
    return Problem(413, "Content Too Large", f"the body is longer than {MAX_BODY} bytes")
