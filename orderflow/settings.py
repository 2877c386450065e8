"""The settings of a process. Only this module reads the environment."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, computed_field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orderflow.contracts import EventBus, Workflow
from orderflow.errors import ConfigurationError

Seconds = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _as_browsers_write(origin: str) -> str:
    # Without a path, and without the scheme's default port. RFC 6454, 6.2
    return re.sub(r"^(http:.*):80$|^(https:.*):443$", r"\1\2", origin.lower().rstrip("/"))


_Origin = Annotated[
    str,
    BeforeValidator(_as_browsers_write),
    Field(pattern=r"^https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"),
]
_Sampler = Annotated[
    Literal[
        "always_on", "always_off", "traceidratio",
        "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
    ] | None,
    # By OpenTelemetry's rules, capitals don't matter, and an empty value counts as not set.
    BeforeValidator(lambda value: (value.lower() or None) if isinstance(value, str) else value),
]  # fmt: skip


class Role(StrEnum):
    """What a process of a service does: serve HTTP, handle messages, or both."""

    ALL = "all"
    WEB = "web"
    WORKER = "worker"


class Settings(BaseSettings):
    """Every field is an environment variable of the same name in capitals. Times are seconds."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    # Deployment and security.
    workflow_mode: Workflow = Workflow.CHOREOGRAPHY
    event_bus: EventBus = EventBus.SNS
    allow_workflow_override: bool | None = None
    """Whether `POST /orders` may name its workflow and bus. Default: on locally, off on AWS."""
    orderflow_env: Literal["local", "aws"] = "local"
    orderflow_role: Role = Role.ALL
    orderflow_stack: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")] = "orderflow"
    orderflow_bind: str = "127.0.0.1"
    orderflow_auth: Literal["off", "key"] = "off"
    orderflow_api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    orderflow_operator_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    orderflow_trusted_origins: Annotated[tuple[_Origin, ...], NoDecode] = ()
    """Sites whose pages may post: needed behind a proxy that doesn't pass on the Host, and for sites with other
    names."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    # Addresses.
    aws_endpoint_url: str | None = None
    aws_region: Annotated[str, Field(pattern=r"^[a-z]{2,}(-[a-z]+)+-[0-9]{1,2}$")] = "us-east-1"
    """As in every AWS tool: AWS_REGION, AWS_DEFAULT_REGION, or the profile's; on AWS there is no other default."""
    database_url: SecretStr = SecretStr("")
    providers_database_url: SecretStr = SecretStr("")
    """The simulated providers' own database (payment and shipping)."""
    orchestrator_url: str | None = None
    jaeger_url: str | None = None
    """Jaeger's address for browsers, used in links."""
    order_port: Port = 8001
    inventory_port: Port = 8002
    payment_port: Port = 8003
    shipping_port: Port = 8004
    orchestrator_port: Port = 8005

    # Processes.
    web_workers: Annotated[int, Field(ge=1, le=64)] = 1
    web_threads: Annotated[int, Field(ge=1, le=256)] = 8
    web_connections: Annotated[int, Field(ge=10, le=100_000)] = 1000
    """Maximum number of client connections per web worker; one more closes the connection that has waited longest."""
    web_request_timeout: Seconds = 10
    """From the first byte of a request until it is complete; then the caller gets 408."""
    web_response_timeout: Annotated[float, Field(gt=0, le=86_400)] = 30
    """Time for a caller to receive an answer; then the connection is closed."""
    consumer_threads: Annotated[int, Field(ge=1, le=32)] | None = None
    """Default: two in order, which hears of every step, and one elsewhere. With more, batches are smaller and cost more
    calls."""
    database_pool: Annotated[int, Field(ge=1, le=100)] = 10
    long_poll: Annotated[int, Field(ge=0, le=20)] = 20
    visibility: Annotated[int, Field(ge=2, le=43200)] = 30
    heartbeat: Seconds = 10
    lease: Seconds = 10
    """How long staged messages, provider intents and checks of executions belong to the process that took them."""
    failures_until_parked: Annotated[int, Field(ge=1)] = 5

    # Providers.
    provider_timeout: Seconds = 2
    provider_attempts: Annotated[int, Field(ge=1)] = 3
    provider_concurrency: Annotated[int, Field(ge=1)] = 16
    provider_key_life: Seconds = 24 * 3600
    """How long a provider honours an idempotency key; an older intent is only looked up, never resent."""

    # Owners' deadlines (DESIGN.md §2).
    resend_after: Annotated[tuple[Seconds, ...], NoDecode] = (10, 20, 40)
    """Time after the last progress at which the open message is resent."""
    retry_budget: Annotated[int, Field(ge=1)] = 100
    """Messages that an owner may resend at once, beyond a share of its traffic (`orderflow.saga.retry_budget`)."""
    undo_after: Seconds = 60
    """Time after the last progress at which an order is compensated."""
    undo_resend_every: Seconds = 10
    undo_attempts: Annotated[int, Field(ge=1)] = 20
    """Compensation commands sent without an answer until the order needs an operator."""

    # Retention.
    keep_inbox: Seconds = 14 * 24 * 3600
    """At least as long as any queue keeps a message (14 days at most)."""
    keep_log: Seconds = 90 * 24 * 3600
    keep_idempotency_keys: Seconds = 48 * 3600

    # Traces: OpenTelemetry's own variables. Its SDK reads the others itself.
    otel_sdk_disabled: str = "false"
    otel_traces_exporter: str = "otlp"
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None
    otel_exporter_otlp_timeout: Seconds | None = None
    otel_exporter_otlp_traces_timeout: Seconds | None = None
    otel_traces_sampler: _Sampler = None
    otel_bsp_schedule_delay: Annotated[float, Field(gt=0)] = 2000
    """Milliseconds between two exports; OpenTelemetry's default, 5 s, is long for someone who looks at one order."""
    traces_per_second: Annotated[float, Field(gt=0)] = 10
    """New traces per operation and process if OTEL_TRACES_SAMPLER is not set; ten times as many in a burst."""

    # For the fault tests.
    crash_at: str = ""
    """`point[:n]`: the process kills itself when it reaches that failpoint for the n-th time."""

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, data: Any) -> Any:
        for name in ("orderflow_api_keys", "orderflow_operator_keys", "orderflow_trusted_origins", "resend_after"):
            value = data.get(name)
            if isinstance(value, str):
                data[name] = tuple(part.strip() for part in value.split(",") if part.strip())
        return data

    @model_validator(mode="before")
    @classmethod
    def _find_region(cls, data: Any) -> Any:
        if not data.get("aws_region"):
            data.pop("aws_region", None)
            if region := _known_region(local=data.get("orderflow_env", "local") != "aws"):
                data["aws_region"] = region
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.orderflow_env == "aws" and "aws_region" not in self.model_fields_set:
            raise ValueError("AWS_REGION is not set, nor AWS_DEFAULT_REGION or a profile's region: set one of them")
        if self.orderflow_env == "local" and not self.aws_endpoint_url:
            raise ValueError(
                "AWS_ENDPOINT_URL is not set: a local run talks to an emulator only. "
                "Set it to LocalStack's address, or ORDERFLOW_ENV=aws to run on AWS"
            )
        if self.orderflow_auth == "key" and not (self.orderflow_api_keys and self.orderflow_operator_keys):
            raise ValueError("ORDERFLOW_AUTH=key needs ORDERFLOW_API_KEYS and ORDERFLOW_OPERATOR_KEYS")
        if self.orderflow_auth == "off" and self.orderflow_env == "aws":
            raise ValueError("ORDERFLOW_AUTH=off is for loopback only; set ORDERFLOW_AUTH=key on AWS")
        if not self.resend_after or any(a >= b for a, b in itertools.pairwise(self.resend_after)):
            shown = ",".join(f"{seconds:g}" for seconds in self.resend_after)
            raise ValueError(f"RESEND_AFTER={shown!r} must be one or more times, each later than the one before")
        if self.heartbeat >= self.visibility:
            raise ValueError(f"HEARTBEAT={self.heartbeat} must be shorter than VISIBILITY={self.visibility}")
        return self

    @computed_field  # type: ignore[prop-decorator]
    @property
    def override_allowed(self) -> bool:
        """`ALLOW_WORKFLOW_OVERRIDE` with its default filled in."""
        allowed = self.allow_workflow_override
        return self.orderflow_env == "local" if allowed is None else allowed

    @property
    def undo_timeouts(self) -> Sequence[float]:
        """Seconds that a state machine waits for each attempt of a compensation: once, twice, then four times
        UNDO_RESEND_EVERY.

        Unlike at an owner, an answer counts only while its task waits. If everything is slow, attempts at a constant
        pace would each make the previous answer worthless, up to the last one.
        """
        return [self.undo_resend_every * min(2**attempt, 4) for attempt in range(self.undo_attempts + 1)]

    @property
    def longest_wait(self) -> float:
        """The longest delay, in seconds, that anything is given: a retried message, an unreadable row, or one of these
        settings."""
        return max(900.0, self.undo_after, self.resend_after[-1], self.undo_resend_every, self.lease)

    @property
    def overdue_after(self) -> float:
        """Seconds after its last progress by which the owner of an order has ended it, or handed it to an operator."""
        return self.undo_after + self.undo_resend_every * self.undo_attempts

    @property
    def overdue_by_machine_after(self) -> float:
        """The same for a state machine, if one compensation takes all its attempts."""
        return self.undo_after + sum(self.undo_timeouts)

    @property
    def traces_wanted(self) -> bool:
        """Whether spans are recorded: there is an endpoint to send them to, and OTEL_SDK_DISABLED is off."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        wanted = self.otel_sdk_disabled.lower() != "true" and self.otel_traces_exporter != "none"
        return bool(endpoint) and wanted

    @property
    def otel_timeout(self) -> float | None:
        """Seconds that OpenTelemetry's variables allow an export."""
        return self.otel_exporter_otlp_traces_timeout or self.otel_exporter_otlp_timeout

    def port(self, service: str) -> int:
        """The HTTP port of `service`."""
        return int(getattr(self, f"{service}_port"))


def load(service: str | None = None, **overrides: Any) -> Settings:
    """The settings from the environment. With `service`, for a process of that service, which reads no other service's
    port. Raises ConfigurationError, which names the setting, its value and the choices."""
    if service:
        overrides = {name: Settings.model_fields[name].default for name in _ports() - {f"{service}_port"}} | overrides
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_explain(e) for e in error.errors())) from None
    return settings


def _ports() -> set[str]:
    return {name for name in Settings.model_fields if name.endswith("_port")}


def _known_region(*, local: bool) -> str | None:
    """AWS_DEFAULT_REGION; or, on AWS, the region of the profile, as botocore finds it."""
    if region := os.environ.get("AWS_DEFAULT_REGION"):
        return region
    if local:
        return None
    # Imported here because the command line doesn't need it at its start.
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return Session().get_config_variable("region")  # type: ignore[no-any-return]
    except BotoCoreError as error:
        raise ValueError(f"the region can't be read from AWS's configuration: {error}") from None


def _explain(error: Any) -> str:
    name = "_".join(str(part) for part in error["loc"]).upper()
    if not name:
        return str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "enum":
        choices = ", ".join(re.findall("'([^']+)'", error["ctx"]["expected"]))
        return f"{name}={error['input']!r} is unknown; choose one of: {choices}"
    if name.endswith("_PORT") and str(error["input"]).startswith("tcp://"):
        # https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables
        return (
            f"{name}={error['input']!r} is not a port: Kubernetes sets it for a Service of that name. "
            f"Set {name} to a port in the container, or enableServiceLinks: false in the pod"
        )
    return f"{name}={error['input']!r}: {error['msg']}"
