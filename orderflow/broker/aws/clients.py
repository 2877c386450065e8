"""The connection to AWS: clients, the addresses of the stack, its marker queue, and a count of every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ReadTimeoutError,
)

from orderflow import metrics
from orderflow.broker import BatchRefused, SendFailure
from orderflow.broker.aws import refusals
from orderflow.errors import BrokerUnavailable
from orderflow.settings import Settings

_LOOK_AGAIN_AFTER: Final = 5.0
"""Seconds without an answered call after which the marker is checked again: no broker restarts unnoticed in less."""

_LOOK_PAUSE: Final = 0.5
"""Seconds between checks for a missing marker, over all threads: the thread of each destination asks for it."""

_BROKEN: Final = (ConnectionError, HTTPClientError)
"""A connection that was refused, reset or closed. Includes ReadTimeoutError, after which the broker may be the same."""

_NOT_REACHED: Final = (EndpointConnectionError, ConnectTimeoutError, CredentialRetrievalError, NoCredentialsError)
"""No connection was made, or no request was sent."""

calls: Final = metrics.Counts("aws_calls", "AWS calls", "service", "operation")
"""Every AWS call of this process. The lab computes costs from it."""


class Clients:
    """The boto3 clients of one process, made after the fork. Botocore's own retries are off: a broken connection must
    be noticed here, because the broker behind the next connection may have lost its subscriptions."""

    def __init__(self, settings: Settings) -> None:
        self.stack = settings.orderflow_stack
        local = settings.orderflow_env == "local"
        # Never use the machine's own credentials locally: an emulator accepts any.
        account = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} if local else {}
        self._session = boto3.session.Session(region_name=settings.aws_region, **account)
        self._endpoint = settings.aws_endpoint_url if local else None
        self._verified_at: float | None = None
        self._look_at = 0.0
        self._polls = 0
        """Number of long polls in flight."""
        self._urls: dict[str, str] = {}
        self._stepfunctions: Any = None
        self._lock = threading.Lock()
        self._look = threading.Lock()
        """Held while a thread checks for the marker, which can take as long as a call."""
        quick = Config(
            connect_timeout=2,
            read_timeout=10,
            retries={"total_max_attempts": 1},
            max_pool_connections=10,
            parameter_validation=False,  # pydantic has checked what goes in
        )
        self.sqs = self._client("sqs", quick)
        self.sns = self._client("sns", quick)
        self.events = self._client("events", quick)
        self.polling_sqs = self._client("sqs", quick.merge(Config(read_timeout=settings.long_poll + 10)))
        self._quick = quick

    def _client(self, service: str, config: Config) -> Any:
        client = self._session.client(service, endpoint_url=self._endpoint, config=config)
        client.meta.events.register("before-send", _count)
        return client

    @property
    def stepfunctions(self) -> Any:
        """Made on first use: only one of the workflows needs it, and making it is slow."""
        with self._lock:
            if self._stepfunctions is None:
                self._stepfunctions = self._client("stepfunctions", self._quick)
            return self._stepfunctions

    @contextmanager
    def guard(self, api: str) -> Iterator[None]:
        """Wraps one call: any failure becomes BrokerUnavailable."""
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code.removeprefix("AWS.SimpleQueueService.") in refusals.MISSING:
                self.lost()
            raise BrokerUnavailable(f"{api}: {error}", code, done_nothing=_status_of(error) < 500) from error
        except BotoCoreError as error:
            if isinstance(error, _BROKEN) and not isinstance(error, ReadTimeoutError):
                self.lost()
            raise BrokerUnavailable(f"{api}: {error}", done_nothing=isinstance(error, _NOT_REACHED)) from error
        else:
            if self._verified_at is not None:
                self._verified_at = time.monotonic()

    @contextmanager
    def polling(self) -> Iterator[None]:
        """Wraps one long poll. While one is in flight, the broker is still the same: if the broker stopped, the
        connection would break, which is noticed at once. So a polling process needs no check after a pause."""
        with self._lock:
            self._polls += 1
        try:
            with self.guard("sqs"):
                yield
        finally:
            with self._lock:
                self._polls -= 1

    @contextmanager
    def sending(self, api: str) -> Iterator[None]:
        """Wraps one call that sends: a failure becomes BrokerUnavailable, or BatchRefused if a message may be the cause
        (`orderflow.broker.aws.refusals`)."""
        with self.guard(api):
            try:
                yield
            except ClientError as error:
                code = code_of(error)
                whose = refusals.blame(api, code, _status_of(error))
                if whose is refusals.Blame.DESTINATION:
                    raise
                raise BatchRefused(f"{api}: {error}", code, final=whose is refusals.Blame.MESSAGE) from error

    def lost(self) -> None:
        """The broker may have been replaced: check its marker before anything is published.

        Called after a broken connection, or an answer that a part of the stack is missing. Not called after a refusal,
        throttling or a timeout: these concern one destination only."""
        self._verified_at = None

    def ready(self) -> bool:
        """Whether the marker exists: the queue that the stack creates last. The broker is asked after a broken
        connection, or after a pause of a process that doesn't poll."""
        if self._is_verified():
            return True
        with self._look:
            if self._is_verified():  # another thread has checked meanwhile
                return True
            if time.monotonic() < self._look_at:
                return False
            try:
                url = str(self.sqs.get_queue_url(QueueName=f"{self.stack}-ready")["QueueUrl"])
            except (BotoCoreError, ClientError):
                self._verified_at = None
                self._look_at = time.monotonic() + _LOOK_PAUSE
                return False
            self._urls[f"{self.stack}-ready"] = url
            self._verified_at = time.monotonic()
            return True

    def _is_verified(self) -> bool:
        verified = self._verified_at
        return verified is not None and (self._polls > 0 or time.monotonic() - verified < _LOOK_AGAIN_AFTER)

    def queue_url(self, name: str) -> str:
        """The URL of a queue of the stack, derived from the marker's. Raises BrokerUnavailable without a marker."""
        marker = self._marker_url()
        return f"{marker.rpartition('/')[0]}/{name}"

    def arn(self, service: str, name: str) -> str:
        """The ARN of a part of the stack, in the account and region of the marker. Raises BrokerUnavailable."""
        account = self._marker_url().rsplit("/", 2)[1]
        region = self._session.region_name
        partition = self._session.get_partition_for_region(region)
        return f"arn:{partition}:{service}:{region}:{account}:{name}"

    def close(self) -> None:
        """Closes the connections of all clients."""
        for client in (self.sqs, self.sns, self.events, self._stepfunctions, self.polling_sqs):
            if client is not None:
                client.close()

    def _marker_url(self) -> str:
        name: str = f"{self.stack}-ready"
        if name not in self._urls and not self.ready():
            raise BrokerUnavailable(f"the stack's marker (queue {name}) does not exist", done_nothing=True)
        return self._urls[name]


def failures_by_id(api: str, answer: Mapping[str, Any]) -> Sequence[SendFailure]:
    """The `Failed` entries of an SNS or SQS batch answer."""
    return [failure(api, int(f["Id"]), f["Code"], f.get("Message", "")) for f in answer.get("Failed", ())]


def failure(api: str, index: int, code: str, text: str) -> SendFailure:
    """One entry of a batch that was not accepted, with the reason that `api` gave."""
    whose = refusals.blame(api, code)
    final, destination = whose is refusals.Blame.MESSAGE, whose is refusals.Blame.DESTINATION
    return SendFailure(index, f"{code}: {text}", final, code, destination)


def code_of(error: ClientError) -> str:
    """The AWS error code of a response."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _status_of(error: ClientError) -> int:
    """The HTTP status of an AWS error response; 500 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))


def _count(request: Any, event_name: str = "", **other: Any) -> None:
    # `before-send.sqs.ReceiveMessage`
    _, service, operation = event_name.split(".", 2)
    calls[service, operation] += 1
