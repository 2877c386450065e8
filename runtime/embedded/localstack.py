"""LocalStack from PyPI: its virtual environment, its settings, its readiness."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from runtime.embedded.programs import Program
from runtime.home import PROJECT, Home
from runtime.plan import Plan
from runtime.problems import RuntimeProblem

FOLDER: Final = PROJECT / "localstack"
ENVIRONMENT: Final = PROJECT / ".orderflow" / f"venv-localstack-{sys.version_info[0]}.{sys.version_info[1]}"
"""Shared by all homes of this clone."""

_LOCK_FILE: Final = FOLDER / "requirements.txt"
_SERVICES: Final = "cloudformation,events,iam,sns,sqs,stepfunctions,sts"

_NOT_ABOUT_SOURCES: Final = re.compile(
    r"PYTHON|VIRTUAL_ENV$|(PIP|UV)_"
    r"(?!.*(INDEX|LINKS|HOST|CERT|TLS|PROXY|HTTP|TIMEOUT|RETRIES|CACHE|CONFIG_FILE|OFFLINE|KEYRING))"
)
"""Variables that make Python or an installer search or install elsewhere. Package sources stay the caller's choice."""


def program(home: Home, plan: Plan) -> Program:
    """LocalStack on loopback, which deploys the stack at every start."""
    port = plan.port("localstack")
    return Program(
        name="localstack",
        command=(str(ENVIRONMENT / "bin" / "python"), str(FOLDER / "launcher.py")),
        environment={
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{port}",
            "LOCALSTACK_PORT": str(port),
            "ORDERFLOW_STACK": plan.settings.get("ORDERFLOW_STACK", "orderflow"),
            "ORDERFLOW_STACK_FILE": str(FOLDER / "stack.yaml"),
            # A changed template changes the program: `up` on a running system restarts LocalStack with it.
            "ORDERFLOW_STACK_DIGEST": _digest(FOLDER / "stack.yaml"),
            "FILESYSTEM_ROOT": str(home.localstack),
            "HOME": str(home.localstack),
            # At every start it deletes TMPDIR/localstack, which could be another system's.
            "TMPDIR": str(home.localstack / "tmp"),
            "SERVICES": _SERVICES,
            "SQS_ENDPOINT_STRATEGY": "path",
            "LS_LOG": "error",
            "SQS_DISABLE_CLOUDWATCH_METRICS": "1",
            "IN_MEMORY_CLIENT": "1",
            # Nothing leaves this machine: no usage events, no certificate, no DNS server, no Docker.
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "SKIP_INFRA_DOWNLOADS": "1",
            "DNS_ADDRESS": "0",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
        },
        folder=home.localstack,
    )


def installed() -> bool:
    """Whether the environment holds every package of the lock."""
    stamp = ENVIRONMENT / "orderflow-lock"
    if not stamp.exists() or stamp.read_text() != _digest(_LOCK_FILE):
        return False
    if not (ENVIRONMENT / "bin" / "python").exists():  # its interpreter was removed
        return False
    present = {p.name.lower() for p in ENVIRONMENT.glob("lib/python*/site-packages/*.dist-info")}
    return all(name in present for name in _required())


def install() -> None:
    """Creates the environment from the hash lock (300 MB, once per clone). Raises RuntimeProblem with the installer's
    error. pip is tried where uv fails: it reads pip.conf and the PIP_* variables, which uv doesn't."""
    ENVIRONMENT.parent.mkdir(parents=True, exist_ok=True)
    with (ENVIRONMENT.parent / "venv-localstack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed():  # another home's `up` was faster
            return
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        error = _install_by_uv() or None
        if error is not None:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            error = _install_by_pip()
        if error is not None:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            raise RuntimeProblem(
                f"LocalStack's packages couldn't be installed: {error[-700:]}",
                "Check the network and the package index (PIP_INDEX_URL, UV_DEFAULT_INDEX), then try again.",
            )
        (ENVIRONMENT / "orderflow-lock").write_text(_digest(_LOCK_FILE))


def ready(plan: Plan) -> bool:
    """Whether LocalStack is up and the stack is deployed. Raises RuntimeProblem if the deployment failed."""
    return refusal(plan) is None


def refusal(plan: Plan) -> str | None:
    """Why it isn't ready (yet); None if it is. Raises RuntimeProblem if the deployment failed."""
    try:
        with _opener.open(f"{plan.url('localstack')}/_localstack/init/ready", timeout=2) as answer:
            state = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError) as error:
        return f"{plan.url('localstack')} doesn't answer: {getattr(error, 'reason', error)}"
    if any(script["state"] == "ERROR" for script in state["scripts"]):
        raise RuntimeProblem(
            "The stack localstack/stack.yaml couldn't be deployed.",
            "See localstack.log; python localstack/init/ready.d/deploy.py tries again and says why.",
        )
    return None if state["completed"] and state["scripts"] else "it answers, and is deploying localstack/stack.yaml"


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


def _required() -> set[str]:
    """The `.dist-info` names of the packages that the lock requires on every platform."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==(\S+) \\$", _LOCK_FILE.read_text(), re.MULTILINE)
    return {f"{re.sub('[-_.]+', '_', name).lower()}-{version}.dist-info" for name, version in pins}


def _install_by_uv() -> str | None:
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        return "uv is missing"
    return _run([str(uv), "venv", "--quiet", "--no-project", "--python", sys.executable, str(ENVIRONMENT)]) or _run(
        [str(uv), "pip", "install", "--quiet", "--python", str(ENVIRONMENT / "bin" / "python"),
         "--require-hashes", "-r", str(_LOCK_FILE)]
    )  # fmt: skip


def _install_by_pip() -> str | None:
    return _run([sys.executable, "-m", "venv", str(ENVIRONMENT)]) or _run(
        [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-user",
         "--disable-pip-version-check", "--no-compile", "--require-hashes", "-r", str(_LOCK_FILE)]
    )  # fmt: skip


def _run(command: list[str]) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not _NOT_ABOUT_SOURCES.match(name)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
