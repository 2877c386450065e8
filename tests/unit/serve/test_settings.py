"""What a platform or a shell puts into the environment: taken, refused by name with a way out, or not looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orderflow.errors import ConfigurationError
from orderflow.routing import SERVICES
from orderflow.settings import Settings, load

AWS = {"ORDERFLOW_ENV": "aws", "ORDERFLOW_AUTH": "key", "ORDERFLOW_API_KEYS": "a", "ORDERFLOW_OPERATOR_KEYS": "b"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Empty, but for what a local process needs."""
    for name in set(os.environ) & ({name.upper() for name in Settings.model_fields} | {"AWS_DEFAULT_REGION"}):
        monkeypatch.delenv(name)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    return monkeypatch


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("value", ["tcp://10.96.0.12:80", "nonsense", "0", ""])
def test_a_process_reads_its_own_port_only(environment: pytest.MonkeyPatch, service: str, value: str) -> None:
    """Kubernetes sets PAYMENT_PORT in every container, if a Service is called payment."""
    for other in SERVICES:
        if other != service:
            environment.setenv(f"{other.upper()}_PORT", value)
    environment.setenv(f"{service.upper()}_PORT", "9999")
    assert load(service).port(service) == 9999


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_link_in_place_of_the_own_port_is_refused_with_the_way_out(
    environment: pytest.MonkeyPatch, service: str
) -> None:
    variable = f"{service.upper()}_PORT"
    environment.setenv(variable, "tcp://10.96.0.12:80")
    with pytest.raises(ConfigurationError, match=rf"{variable}='tcp://10.96.0.12:80' .*enableServiceLinks: false"):
        load(service)


@pytest.mark.parametrize("place", [{}, AWS], ids=["local", "aws"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"AWS_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_REGION": "us-gov-east-1", "AWS_DEFAULT_REGION": "eu-west-1"}, "us-gov-east-1"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "ap-southeast-2"}, "ap-southeast-2"),
    ],
)
def test_the_region_is_taken_as_every_aws_tool_takes_it(
    environment: pytest.MonkeyPatch, place: dict[str, str], given: dict[str, str], expected: str
) -> None:
    for name, value in (place | given).items():
        environment.setenv(name, value)
    assert load().aws_region == expected


def test_on_aws_the_region_may_be_the_profiles(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Locally a profile, which is of a real account, has no say."""
    (tmp_path / "config").write_text("[default]\nregion = sa-east-1\n[profile other]\nregion = eu-north-1\n")
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert load().aws_region == "us-east-1"
    for name, value in AWS.items():
        environment.setenv(name, value)
    assert load().aws_region == "sa-east-1"
    environment.setenv("AWS_PROFILE", "other")
    assert load().aws_region == "eu-north-1"
    environment.setenv("AWS_PROFILE", "missing")
    with pytest.raises(ConfigurationError, match="missing"):
        load()


def test_on_aws_no_region_is_taken_silently(environment: pytest.MonkeyPatch) -> None:
    for name, value in AWS.items():
        environment.setenv(name, value)
    with pytest.raises(ConfigurationError, match="AWS_REGION is not set, nor AWS_DEFAULT_REGION"):
        load()


@pytest.mark.parametrize("value", ["Ireland", "eu-west-1a", "us-east", "us-east-1 "])
def test_a_wrong_region_is_named(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("AWS_DEFAULT_REGION", value)
    with pytest.raises(ConfigurationError, match=f"AWS_REGION='{value}'"):
        load()
