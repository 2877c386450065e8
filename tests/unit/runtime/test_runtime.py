"""The embedded runtime without a process: settings, messages, generated configuration."""

from __future__ import annotations

import configparser
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from orderflow.routing import SERVICES
from orderflow.settings import Settings
from runtime import EmbeddedRuntime, RuntimeProblem, preflight
from runtime.embedded import leftovers
from runtime.embedded.postgres import DATABASES, Postgres
from runtime.embedded.programs import Program, service_environment
from runtime.embedded.supervisor import render
from runtime.home import Home, write_private
from runtime.plan import PORTS, changes, make_plan, user_settings

URLS = {name: f"postgresql://{name}@x/{name}" for name in DATABASES}


def test_defaults() -> None:
    """Without any setting: choreography over SNS on the documented ports."""
    plan = make_plan({})
    assert (plan.workflow, plan.event_bus) == ("choreography", "sns")
    assert plan.port("order") == 8001
    assert plan.port("orchestrator") == 8005
    assert plan.url("localstack") == "http://127.0.0.1:4566"


@pytest.mark.parametrize("name", ["WORKFLOW_MODE", "EVENT_BUS"])
def test_an_unknown_choice_stops_the_start_and_names_the_choices(name: str) -> None:
    """The message holds the setting, the value and what it could be."""
    with pytest.raises(RuntimeProblem) as problem:
        make_plan({name: "carrier-pigeon"})
    text = str(problem.value)
    assert name in text
    assert "carrier-pigeon" in text
    assert {"WORKFLOW_MODE": "choreography", "EVENT_BUS": "eventbridge"}[name] in text


@pytest.mark.parametrize("value", ["0", "65536", "80a", "-1", "eighty", "٨"])
def test_a_port_must_be_a_port(value: str) -> None:
    """The message names the variable and the value."""
    with pytest.raises(RuntimeProblem, match="ORDER_PORT="):
        make_plan({"ORDER_PORT": value})


def test_two_parts_on_one_port() -> None:
    """Both variables are named."""
    with pytest.raises(RuntimeProblem, match="ORDER_PORT and PAYMENT_PORT are both 9000"):
        make_plan({"ORDER_PORT": "9000", "PAYMENT_PORT": "9000"})


def test_every_setting_that_the_user_made_reaches_the_services() -> None:
    """Settings of orderflow.settings are passed on; what the runtime decides itself, and AWS_*, are not."""
    plan = make_plan(
        {
            "UNDO_AFTER": "7",
            "RESEND_AFTER": "1,2",
            "AWS_PROFILE": "prod",
            "AWS_ENDPOINT_URL": "https://aws",
            "PAGER": "less",
        }
    )
    environment = service_environment(plan, "payment", URLS, tracing=False)
    assert environment["UNDO_AFTER"] == "7"
    assert environment["RESEND_AFTER"] == "1,2"
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert environment["AWS_ACCESS_KEY_ID"] == "test"
    assert environment["DATABASE_URL"] == URLS["orderflow_payment"]
    assert environment["PROVIDERS_DATABASE_URL"] == URLS["orderflow_providers"]
    assert environment["PAYMENT_PORT"] == "8003"
    assert not {"AWS_PROFILE", "PAGER"} & environment.keys()


def test_only_payment_and_shipping_reach_the_providers() -> None:
    """The ledger of the simulated providers is nobody else's."""
    plan = make_plan({})
    having = [s for s in ("order", "inventory", "payment", "shipping", "orchestrator")
              if "PROVIDERS_DATABASE_URL" in service_environment(plan, s, URLS, tracing=False)]  # fmt: skip
    assert having == ["payment", "shipping"]


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_told_only_the_addresses_that_they_read(service: str) -> None:
    """They reach each other by messages; only the order service asks another one."""
    environment = service_environment(make_plan({}), service, URLS, tracing=True)
    addresses = {name for name in environment if name.endswith("_URL")}
    assert addresses <= {name.upper() for name in Settings.model_fields}
    assert ("ORCHESTRATOR_URL" in addresses) == (service == "order")


def test_overrides_are_for_one_service() -> None:
    """A failpoint in one service leaves the others alone."""
    plan = make_plan({}, {"payment": {"CRASH_AT": "after-commit"}})
    assert service_environment(plan, "payment", URLS, tracing=False)["CRASH_AT"] == "after-commit"
    assert "CRASH_AT" not in service_environment(plan, "shipping", URLS, tracing=False)


def test_the_environment_wins_over_the_env_file(tmp_path: Path) -> None:
    """`.env` holds defaults of one's own; a variable on the command line is for once."""
    file = tmp_path / ".env"
    file.write_text("WORKFLOW_MODE=orchestration\nORDER_PORT=9001\n# a comment\n")
    settings = user_settings({"ORDER_PORT": "9002"}, file)
    assert settings["WORKFLOW_MODE"] == "orchestration"
    assert settings["ORDER_PORT"] == "9002"


def test_changes_are_told_as_old_and_new() -> None:
    """What is set, changed or no longer set."""
    old = make_plan({"UNDO_AFTER": "5"}).visible()
    new = make_plan({"WORKFLOW_MODE": "orchestration", "ORDER_PORT": "9001"}).visible()
    assert changes(old, new) == {
        "ORDER_PORT": ("8001", "9001"),
        "UNDO_AFTER": ("5", "default"),
        "WORKFLOW_MODE": ("choreography", "orchestration"),
    }


def test_secrets_are_never_shown() -> None:
    """A changed key is told, not printed."""
    keys = {"ORDERFLOW_AUTH": "key", "ORDERFLOW_API_KEYS": "hunter2", "ORDERFLOW_OPERATOR_KEYS": "s3cret"}
    shown = make_plan(keys).visible()
    assert "hunter2" not in str(shown)
    assert (
        shown["ORDERFLOW_API_KEYS"] != make_plan(keys | {"ORDERFLOW_API_KEYS": "other"}).visible()["ORDERFLOW_API_KEYS"]
    )


def test_a_taken_port_is_named_with_its_variable_and_its_process() -> None:
    """The way out is a command that works."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(RuntimeProblem) as problem:
            preflight.check_ports({"ORDER_PORT": port})
    assert f"Port {port} (ORDER_PORT) is taken by" in problem.value.what
    assert f"(pid {os.getpid()})" in problem.value.what
    assert "ORDER_PORT=" in problem.value.way_out


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_other_pythons_are_refused(version: tuple[int, int]) -> None:
    """With the versions that work."""
    with pytest.raises(RuntimeProblem, match=r"3\.11, 3\.12 or 3\.13"):
        preflight.check_python(version)


def test_a_missing_package_is_named() -> None:
    """Together with how to install the environment again."""
    with pytest.raises(RuntimeProblem, match="no_such_package"):
        preflight.check_packages(["json", "no_such_package"])


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """Before anything is written half."""
    with pytest.raises(RuntimeProblem, match="MB are free"):
        preflight.check_disk(tmp_path, needed=sys.maxsize)


def test_a_home_that_is_no_folder(tmp_path: Path) -> None:
    """The message names the folder and the variable that chooses another."""
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeProblem, match="ORDERFLOW_HOME"):
        EmbeddedRuntime(tmp_path / "file" / "home").up()


def test_a_long_home_still_gets_a_socket(tmp_path: Path) -> None:
    """Socket paths end at 107 characters."""
    home = Home.at(tmp_path / ("x" * 120))
    assert len(str(home.socket)) < 100
    assert Home.at(tmp_path / ("y" * 120)).socket != home.socket


@pytest.mark.parametrize("length", [1, 120])
def test_another_shell_finds_the_same_system(tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its temporary folder is; else it would start a second supervisor on the first one's parts."""
    home = Home.at(tmp_path / ("x" * length))
    before = home.socket
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(tmp_path)
    assert home.socket == before


def test_a_pid_that_is_another_programs_keeps_no_server_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, postmaster.pid may name anybody. While a server works on the folder, it stays."""
    postgres = Postgres(Home.at(tmp_path), 1)
    monkeypatch.setattr(postgres, "_folder_cache", tmp_path)
    postgres.data.mkdir()
    file = postgres.data / "postmaster.pid"
    file.write_text(f"{os.getpid()}\n{postgres.data}\n")
    monkeypatch.setattr(leftovers, "served", lambda data: data == postgres.data)
    postgres._remove_stale_pid_file()
    assert file.exists()
    monkeypatch.undo()
    monkeypatch.setattr(postgres, "_folder_cache", tmp_path)
    postgres._remove_stale_pid_file()
    assert not file.exists()


AWKWARD = 'it\'s 100% "fine"; # $HOME `x` \\ é, a=b\nnext'


def test_any_value_survives_the_way_to_the_process(tmp_path: Path) -> None:
    """Quotes, percent signs, comment characters and line breaks in a setting arrive as they are."""
    program = Program("p", ("true",), {"VALUE": AWKWARD})
    file = tmp_path / "p.env.sh"
    write_private(file, program.environment_file())
    assert file.stat().st_mode & 0o077 == 0, "it may hold passwords"
    script = '. "$0" && exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, str(file), "printenv", "VALUE"], capture_output=True, text=True, check=True
    )
    assert done.stdout == AWKWARD + "\n"


def test_supervisord_understands_the_configuration(tmp_path: Path) -> None:
    """Names, commands and limits arrive, also from a folder with spaces and percent signs in its name."""
    home = Home.at(tmp_path / "a 100% home")
    home.make()
    program = Program("order", ("/bin/echo", "a b", "50%"), {"X": "1"}, folder=home.run)
    conf = home.run / "supervisord.conf"
    conf.write_text(render(home, [program]))
    options = ServerOptions()
    options.realize(["-c", str(conf)])
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    assert process.name == "order"
    assert shlex.split(process.command)[-3:] == ["/bin/echo", "a b", "50%"]
    assert process.stdout_logfile == str(home.log("order"))
    assert process.autostart is False
    assert process.stopwaitsecs == 10


def test_a_changed_setting_changes_the_program() -> None:
    """This is how the supervisor sees what to start again."""
    assert Program("p", ("x",), {"A": "1"}).digest() != Program("p", ("x",), {"A": "2"}).digest()
    assert Program("p", ("x",), {"A": "1"}).digest() == Program("p", ("x",), {"A": "1"}).digest()


def test_the_ports_are_those_that_users_were_promised() -> None:
    """DESIGN.md section 7."""
    assert dict(PORTS) == {
        "ORDER_PORT": 8001, "INVENTORY_PORT": 8002, "PAYMENT_PORT": 8003, "SHIPPING_PORT": 8004,
        "ORCHESTRATOR_PORT": 8005, "LOCALSTACK_PORT": 4566, "POSTGRES_PORT": 15432, "JAEGER_PORT": 16686,
        "OTLP_GRPC_PORT": 4317, "OTLP_HTTP_PORT": 4318,
    }  # fmt: skip


def test_the_configuration_is_an_ini_file(tmp_path: Path) -> None:
    """One section a program."""
    home = Home.at(tmp_path)
    parser = configparser.RawConfigParser()
    parser.read_string(render(home, [Program("a", ("x",)), Program("b", ("y",))]))
    assert {"program:a", "program:b"} <= set(parser.sections())
