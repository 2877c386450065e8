"""What the environment tells libraries beside our settings: no local part is asked through a proxy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import URLError
from urllib.request import urlopen

import boto3
import httpx
import pytest
import requests
import yaml
from botocore.exceptions import BotoCoreError, ClientError, ProxyConnectionError

from orderflow.environment import bypass_proxies, seal_libpq
from runtime.containers.docker import COMPOSE_FILE

NOWHERE = "http://127.0.0.1:9"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"here")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(params=[None, "", "example.com", "*.internal , 10.0.0.0/8"])
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> pytest.MonkeyPatch:
    """One that is unavailable, with the NO_PROXY that a platform might set."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        if request.param is not None:
            monkeypatch.setenv(name, request.param)
    return monkeypatch


def through_boto3(url: str) -> None:
    account = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    try:
        boto3.client("sqs", endpoint_url=url, **account).get_queue_url(QueueName="x")
    except ProxyConnectionError:
        raise
    except (ClientError, BotoCoreError, ValueError):
        pass  # whatever it makes of that answer


WAYS = {
    "boto3": through_boto3,
    "requests": lambda url: requests.get(url, timeout=5).raise_for_status(),  # what spans are exported by
    "httpx": lambda url: httpx.get(url, timeout=5).raise_for_status(),
    "urllib": lambda url: urlopen(url, timeout=5).close(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.usefixtures("behind_a_proxy")
def test_nothing_local_is_asked_through_a_proxy(way: str, host: str, port: int) -> None:
    with pytest.raises(URLError):
        WAYS["urllib"](f"http://{host}:{port}/")  # it would be
    bypass_proxies(())
    WAYS[way](f"http://{host}:{port}/")


def test_named_parts_are_added_to_what_is_there() -> None:
    environ = {"NO_PROXY": "example.com, localhost"}
    bypass_proxies(["http://localstack:4566", None, "https://jaeger:4318/v1/traces"], environ)
    assert environ["NO_PROXY"] == environ["no_proxy"] == "example.com,localhost,localstack,jaeger,127.0.0.1,::1"


def test_every_container_of_ours_knows_all_parts() -> None:
    """Docker's client configuration puts HTTP_PROXY into containers."""
    parts = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    reached = {
        "localhost",
        "127.0.0.1",
        "localstack",
        "postgres",
        "jaeger",
        "order",
        "inventory",
        "payment",
        "shipping",
    }
    for name in ("localstack", "order", "payment-worker", "orchestrator"):
        environment = parts[name]["environment"]
        assert environment["NO_PROXY"] == environment["no_proxy"]
        assert reached | {"orchestrator"} <= set(environment["NO_PROXY"].split(","))


def test_nothing_of_the_shells_postgresql_is_left() -> None:
    environ = {"PGSSLMODE": "require", "PGSERVICE": "prod", "PGHOST": "db.example", "PAGER": "less"}
    seal_libpq(environ)
    assert environ == {"PAGER": "less"}
