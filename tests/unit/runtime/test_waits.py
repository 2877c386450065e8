"""A wait for a part that ends in vain says what the part said last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from runtime.embedded.postgres import Postgres
from runtime.embedded.start import Start
from runtime.embedded.supervisor import Supervisor
from runtime.home import Home
from runtime.plan import make_plan
from runtime.probe import answers, refusal
from runtime.problems import RuntimeProblem
from runtime.progress import silent
from tests.support.ports import free_port

NOT_READY = b'{"title": "Not ready", "detail": "database: password authentication failed"}'


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """A part that answers everything so; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (503, NOT_READY, "HTTP 503: database: password authentication failed"),
        (500, b"<html>oops</html>", "HTTP 500: <html>oops</html>"),
        (502, b"[1]", "HTTP 502: [1]"),
        (404, b"", "HTTP 404: Not Found"),
    ],
)
def test_why_it_does_not_answer(status: int, body: bytes, why: str) -> None:
    with answering(status, body) as port:
        url = f"http://127.0.0.1:{port}/readyz"
        assert not answers(url)
        assert refusal(url) == why


def test_it_answers() -> None:
    with answering(200, b"{}") as port:
        assert refusal(f"http://127.0.0.1:{port}/readyz") is None


def test_nobody_listens() -> None:
    assert "refused" in (refusal(f"http://127.0.0.1:{free_port()}/readyz") or "")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


def waited_for(home: Home, part: str, **ports: int) -> str:
    """What is said when a part isn't ready in time."""
    postgres = free_port()
    plan = make_plan({"POSTGRES_PORT": str(postgres), **{name: str(port) for name, port in ports.items()}})
    start = Start(Supervisor(home), Postgres(home, postgres), plan, home, silent)
    start._check_alive = lambda *names: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeProblem) as caught:
        start._await(part, time.monotonic(), 0.0)
    return caught.value.what


def test_a_service_says_why(home: Home) -> None:
    home.log("order").write_text("the last line\n")
    with answering(503, NOT_READY) as port:
        said = waited_for(home, "order", ORDER_PORT=port)
    assert "order isn't ready after 0 s: HTTP 503: database: password authentication failed" in said
    assert "the last line" in said


def test_the_database_says_why(home: Home) -> None:
    assert "refused" in waited_for(home, "postgres")


def test_localstack_says_why(home: Home) -> None:
    assert "refused" in waited_for(home, "localstack", LOCALSTACK_PORT=free_port())
    with answering(200, b'{"completed": false, "scripts": []}') as port:
        assert "is deploying" in waited_for(home, "localstack", LOCALSTACK_PORT=port)
