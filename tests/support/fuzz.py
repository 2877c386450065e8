"""Input that no honest caller or sender writes (row 15 of the fault matrix): a valid document, damaged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote_from_bytes

import psutil

from orderflow.contracts import MESSAGES, EventBus, Workflow
from orderflow.web.parsing import MAX_BODY

DEEP: Final = 10_000
"""Levels of nesting."""

TOKENS: Final = (
    "NaN", "-Infinity", "1e400", "-1e400", "1e-400", "9" * 5_000, "-" + "9" * 400, str(2**63), str(-(2**63) - 1),
    "9007199254740993", "0.1", "-0", "01", "0x10", "null", "true", "[]", "{}", '""', "undefined", "'x'",
    r'"\u0000"', r'"a\u0000b"', r'"\ud800"', r'"\udfff\ud800"', r'"\x"', '"\x00"', '"\x1b[2J"', '"\u202e\ufeff"',
    '"\U0001f4a5"', '"' + "x" * 20_000 + '"', "\"' OR 1=1 --\"", '"<script>alert(1)</script>"', '"../../etc/passwd"',
    '"%s%n{0}$(id)"', '{"$ref": "#"}', '{"__proto__": {"admin": true}}',
)  # fmt: skip
"""Texts that replace a value as they are: some are JSON, some are not."""

NESTED: Final = ("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * DEEP, '[{"a":' * DEEP)

KEYS: Final = ("", "__proto__", "constructor", "a/b~c", "\x00", "id", "workflow", "price", "x" * 300, "é")

CONTENT_TYPES: Final = (
    None, "", "text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/json; charset=utf-16", "application/json;;;", "application/\xffjson", "application/json, text/html",
)  # fmt: skip

_PLACE: Final = "@place@"


class Fuzzer:
    """Endless variations, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def document(self, valid: Any) -> bytes:
        """JSON, or something that looks like it."""
        damage: Sequence[Callable[[Any], str]] = (
            self._other_value, self._other_value, self._other_value, self._missing, self._added, self._twice,
        )  # fmt: skip
        chance = self._random.random()
        if chance < 0.02:
            return self._random.randbytes(self._random.randrange(200))
        if chance < 0.04:
            text = json.dumps(valid)
            return text.encode() + b" " * self._random.choice((MAX_BODY - len(text), MAX_BODY + 1 - len(text), 10**6))
        text = self._random.choice(damage)(valid)
        data = text.encode("utf-8", "surrogatepass")
        return self._torn(data) if self._random.random() < 0.25 else data

    def request(self, method: str, target: str, valid: Any) -> bytes:
        """A whole HTTP request with a body; its framing and headers may be wrong, too."""
        pick = self._random
        body = self.document(valid)
        kind = pick.choice(CONTENT_TYPES) if pick.random() < 0.1 else "application/json"
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"Content-Type: {kind}"] if kind is not None else []
        lines += pick.sample(self._headers(), 1) if pick.random() < 0.1 else []
        chance = pick.random()
        if chance < 0.06:
            lines.append("Transfer-Encoding: chunked")
            body = self._chunks(body)
            body = self._torn(body) if pick.random() < 0.5 else body
            lines += [f"Content-Length: {len(body)}"] if pick.random() < 0.2 else []
        else:
            wrong = pick.choice((len(body) + 50, len(body) // 2, -1, "many", "1" + "0" * 30, ""))
            lines.append(f"Content-Length: {wrong if chance < 0.12 else len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def target(self, path: str, names: Sequence[str]) -> str:
        """A path for GET with its `{}` filled in and parameters of these names, all of them invalid."""
        while "{" in path:
            before, _, rest = path.partition("{")
            path = before + self._word() + rest.partition("}")[2]
        given = [f"{self._random.choice([*names, 'x'])}={self._word()}" for _ in range(self._random.randrange(4))]
        return path + ("?" + "&".join(given) if given else "")

    def message(self, valid: Mapping[str, Any]) -> str:
        """An envelope, or something that looks like it. It is text: a queue holds nothing else."""
        chance = self._random.random()
        if chance < 0.35:
            return json.dumps(dict(valid) | dict(self._random.sample(self._forgeries(), self._random.randint(1, 2))))
        if chance < 0.5:
            return json.dumps(dict(valid) | {"data": json.loads(json.dumps(_sample_of(self._random)))})
        return self.document(valid).decode("utf-8", "replace")

    def _forgeries(self) -> list[tuple[str, Any]]:
        pick = self._random
        name = pick.choice(list(MESSAGES))
        return [
            ("type", f"orderflow.{name}.v{pick.choice(('0', '1', '1', '1', '01', '2', '99999', '-1', '1.5'))}"),
            ("type", pick.choice(("orderflow.SellTheShop.v1", "com.example.x", "", "orderflow..v1", "x" * 300))),
            ("workflow", pick.choice([*Workflow, "telepathy", "", None, 7, []])),
            ("eventbus", pick.choice([*EventBus, "pigeon", None, {}])),
            ("tasktoken", pick.choice(("forged", "", "x" * 2048, "x" * 2049, "\x00", 7, "🙂"))),
            ("traceparent", pick.choice(("00-0-0-0", "x" * 55, "00-" + "f" * 32 + "-" + "f" * 16 + "-01", "---", 1))),
            ("resend", pick.choice((-1, 0, 1, 10**6, 10**6 + 1, 2**64, "1", 1.5, True))),
            ("causationid", pick.choice(("x", None, valid_id(pick)))),
            ("subject", pick.choice(("../etc", "", valid_id(pick), valid_id(pick).upper()))),
            ("id", pick.choice(("1; DROP TABLE orders", "", valid_id(pick)))),
            ("time", pick.choice(("yesterday", "9999-99-99T99:99:99Z", "x" * 41, 0))),
            ("specversion", pick.choice(("0.3", 1.0, None))),
        ]

    def _headers(self) -> list[str]:
        return [
            "Content-Encoding: gzip", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site",
            "Idempotency-Key: " + "k" * 300, "Idempotency-Key: a\tb", "Idempotency-Key: \xff", "Idempotency-Key:",
            "Authorization: Bearer \xff", "traceparent: 00-" + "0" * 70, "tracestate: " + "x" * 500, "Cookie: \xff=;;",
            "X: " + "x" * 8_000, "Accept: nothing/at-all", "X-Forwarded-For: ' OR 1=1", "Upgrade: websocket",
        ]  # fmt: skip

    def _other_value(self, valid: Any) -> str:
        token = self._random.choice(NESTED if self._random.random() < 0.03 else TOKENS)
        return _put(valid, self._random.choice(_paths(valid)), token)

    def _missing(self, valid: Any) -> str:
        found = json.loads(json.dumps(valid))
        places = [path for path in _paths(found) if path]
        if not places:
            return ""
        *before, last = self._random.choice(places)
        del _at(found, before)[last]
        return json.dumps(found)

    def _added(self, valid: Any) -> str:
        objects = [path for path in _paths(valid) if isinstance(_at(valid, path), dict)]
        if not objects:
            return json.dumps([valid])
        path = self._random.choice(objects)
        inside = dict(_at(valid, path)) | {self._random.choice(KEYS): _PLACE}
        return _put(valid, path, json.dumps(inside).replace(f'"{_PLACE}"', self._random.choice(TOKENS)))

    def _twice(self, valid: Any) -> str:
        text = json.dumps(valid)
        if not (isinstance(valid, dict) and valid):
            return text + text
        key = self._random.choice(list(valid))
        return f"{text[:-1]}, {json.dumps(key)}: {self._random.choice(TOKENS)}}}"

    def _torn(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        match self._random.randrange(4):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + self._random.randbytes(self._random.randrange(1, 9)) + data[at:]
            case 2:
                return data[:at] + data[at + self._random.randrange(1, 9) :]
            case _:
                return data.decode("utf-8", "replace").encode(self._random.choice(("utf-16", "utf-32", "utf-8-sig")))

    def _chunks(self, body: bytes) -> bytes:
        size = self._random.choice((1, 7, 4096)) if len(body) < 5_000 else 4096
        parts = [body[i : i + size] for i in range(0, len(body), size)]
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    def _word(self) -> str:
        """Percent-encoded bytes: anything else would be refused before the service reads it."""
        word = self._random.choice((
            self._random.randbytes(self._random.randrange(1, 40)), b"\x00", b"..%2f..", b"' OR 1=1 --", b"-1", b"0",
            b"9" * 300, b"NaN", b"x" * 500, b"\xff\xfe", b"\xed\xa0\x80", b"{}", b"true",
            valid_id(self._random).encode(),
        ))  # fmt: skip
        return quote_from_bytes(word, safe="")


def valid_id(chance: random.Random) -> str:
    """A well-formed id of nothing that exists."""
    text = f"{chance.getrandbits(128):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _sample_of(chance: random.Random) -> Any:
    """Data of existing message types, which may not fit this message."""
    return chance.choice((
        {}, [], None, {"reason": "undone"}, {"reason": "x" * 501}, {"items": []},
        {"items": [{"sku": "BOOK-1", "quantity": 0}]}, {"items": [{"sku": "BOOK-1", "quantity": 10**7}]},
        {"amount": {"amount": -1, "currency": "EUR"}},
        {"amount": {"amount": 2**53, "currency": "EUR"}, "payment_method": "x"}, {"facts": ["a" * 65]}, {"order": None},
        {"facts": ["StockReserved", "NoSuchFact"], "reason": ""}, {"payment_id": "\x00"}, {"order": {"items": []}},
    ))  # fmt: skip


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, itself included."""
    found = [path]
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        found += _paths(item, (*path, key))
    return found


def _at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _put(valid: Any, path: Sequence[Any], text: str) -> str:
    """The document with `text`, unchanged, at one place."""
    if not path:
        return text
    copy = json.loads(json.dumps(valid))
    *before, last = path
    _at(copy, before)[last] = _PLACE
    return json.dumps(copy).replace(f'"{_PLACE}"', text)


MEGABYTES: Final = 50
"""The memory by which a process may have grown over a whole test."""


def megabytes(process: psutil.Process) -> float:
    """The memory that a process uses."""
    return float(process.memory_info().rss) / 2**20
