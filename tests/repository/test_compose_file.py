"""The compose file and the images' scripts agree with the code; no engine is needed for this."""

from __future__ import annotations

import importlib.util
import re
import socket
import threading
from types import ModuleType
from typing import Any

import pytest
import yaml

from orderflow.routing import SERVICES
from orderflow.settings import Settings
from runtime.containers.docker import COMPOSE_FILE
from runtime.containers.system import OWN_SETTINGS
from runtime.home import PROJECT
from runtime.plan import PORTS, make_plan

TEXT = COMPOSE_FILE.read_text()
PARTS: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "deploy" / "containers" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_reaches_every_service(service: str) -> None:
    """What the embedded runtime passes on, `docker compose up` does, too: a new setting must be listed."""
    everything = {name.upper(): "1" for name in Settings.model_fields}
    passed_on = {name for name in everything if name in _plan_settings()}
    assert passed_on - PARTS[service]["environment"].keys() == set()


def _plan_settings() -> set[str]:
    from runtime import plan

    return set(plan._PASSED_ON)


def test_every_variable_is_known_to_the_runtime() -> None:
    """Else `make up` would leave it out, and differ from `docker compose up`."""
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used <= PORTS.keys() | _plan_settings() | set(OWN_SETTINGS) | {"COMPOSE_PROJECT_NAME"}


def test_images_carry_the_projects_name() -> None:
    """Two clones with systems of their own never take each other's images; a tag can still be set."""
    built = [part["image"] for part in PARTS.values() if "build" in part]
    assert len(built) == len(SERVICES) + 1
    assert {image.partition(":")[2] for image in built} == {
        "${ORDERFLOW_IMAGE_TAG:-${COMPOSE_PROJECT_NAME:-orderflow}}"
    }


def test_ports_are_on_loopback_each_by_its_variable() -> None:
    """With the defaults that users were promised."""
    published = [port for part in PARTS.values() for port in part.get("ports", ())]
    found = {}
    for port in published:
        match = re.fullmatch(r"127\.0\.0\.1:\$\{(\w+):-(\d+)\}:\d+", port)
        assert match, port
        found[match[1]] = int(match[2])
    assert found == dict(PORTS)
    assert make_plan({}).ports == dict(PORTS)


def test_a_worker_is_its_service_without_a_port() -> None:
    """Same image, same settings, another role."""
    for service in SERVICES:
        worker = PARTS[f"{service}-worker"]
        assert worker["image"] == PARTS[service]["image"]
        assert worker["environment"] == PARTS[service]["environment"] | {"ORDERFLOW_ROLE": "worker"}
        assert "ports" not in worker
        assert worker["deploy"]["replicas"] == 0


def test_the_health_check_asks_the_services_own_port() -> None:
    """Ready is 200 and nothing else; a worker has no port to ask."""
    check = script("healthcheck").check
    assert script("healthcheck").SERVICES == SERVICES
    with socket.create_server(("127.0.0.1", 0)) as server:
        environ = {"ORDERFLOW_SERVICE": "payment", "PAYMENT_PORT": str(server.getsockname()[1])}
        for status, expected in ((200, 0), (503, 1)):
            answerer = threading.Thread(target=answer, args=(server, status))
            answerer.start()
            assert check(environ) == expected
            answerer.join()
    assert check(environ) == 1, "nobody listens any more"
    assert check({"ORDERFLOW_SERVICE": "payment", "ORDERFLOW_ROLE": "worker"}) == 0
    assert check({"ORDERFLOW_SERVICE": "cli"}) == 0


def answer(server: socket.socket, status: int) -> None:
    connection, _ = server.accept()
    with connection:
        assert connection.recv(4096).startswith(b"GET /readyz HTTP/1.1\r\n")
        connection.sendall(f"HTTP/1.1 {status} X\r\n\r\n".encode())
