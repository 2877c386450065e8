"""The AWS side of the bus: clients, the addresses of the stack, its marker, and a count of every call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from orderflow import measures
from orderflow.bus import BatchRefused, SendFailure
from orderflow.errors import BrokerUnavailable
from orderflow.settings import Settings

_LOOK_AGAIN_AFTER: Final = 5.0
"""Seconds without an answered call after which the marker is looked for again: no broker restarts faster unseen."""

_REFUSED: Final = frozenset(
    {
        "AWS.SimpleQueueService.BatchRequestTooLong",
        "BatchRequestTooLong",
        "InvalidMessageContents",
        "InvalidParameter",
        "InvalidParameterValue",
        "PayloadTooLarge",
        "RequestEntityTooLarge",
        "ValidationException",
    }
)
"""Error codes that blame what was sent, not the broker's state."""

calls: Final = measures.Counts("aws_calls", "AWS calls", "service", "operation")
"""Every AWS call of this process: the lab's source for cost."""


class Clients:
    """boto3 clients of one process, made after the fork. Botocore's own retries are off: a connection that breaks must
    be seen, because the broker behind the next one may have lost its subscriptions."""

    def __init__(self, settings: Settings) -> None:
        self.stack = settings.orderflow_stack
        local = settings.orderflow_env == "local"
        # Locally never whatever credentials the machine may have: an emulator takes any.
        account = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} if local else {}
        self._session = boto3.session.Session(region_name=settings.aws_region, **account)
        self._endpoint = settings.aws_endpoint_url if local else None
        self._verified_at: float | None = None
        self._urls: dict[str, str] = {}
        self._stepfunctions: Any = None
        self._lock = threading.Lock()
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
        """Made when it is first needed: only one of the workflows does, and it takes a while."""
        with self._lock:
            if self._stepfunctions is None:
                self._stepfunctions = self._client("stepfunctions", self._quick)
            return self._stepfunctions

    @contextmanager
    def guard(self, service: str) -> Iterator[None]:
        """Around one call: a failure of the whole call becomes BatchRefused (what is in it was wrong), or else
        BrokerUnavailable, and then the marker is looked for again."""
        try:
            yield
        except ClientError as error:
            if error.response.get("Error", {}).get("Code", "") in _REFUSED:
                raise BatchRefused(f"{service}: {error}") from error
            self.lost()
            raise BrokerUnavailable(f"{service}: {error}") from error
        except (HTTPClientError, BotoCoreError) as error:
            self.lost()
            raise BrokerUnavailable(f"{service}: {error}") from error
        else:
            if self._verified_at is not None:
                self._verified_at = time.monotonic()

    def lost(self) -> None:
        """The broker may be another one now: look for its marker before anything is published."""
        self._verified_at = None

    def ready(self) -> bool:
        """Whether the marker is there: a queue the stack creates last. Asked after a break or a long silence."""
        verified = self._verified_at
        if verified is not None and time.monotonic() - verified < _LOOK_AGAIN_AFTER:
            return True
        with self._lock:
            try:
                url = str(self.sqs.get_queue_url(QueueName=f"{self.stack}-ready")["QueueUrl"])
            except (HTTPClientError, BotoCoreError, ClientError):
                self._verified_at = None
                return False
            self._urls[f"{self.stack}-ready"] = url
            self._verified_at = time.monotonic()
            return True

    def queue_url(self, name: str) -> str:
        """The URL of a queue of the stack, derived from the marker's. Raises BrokerUnavailable while there is none."""
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
            raise BrokerUnavailable(f"the stack's marker (queue {name}) is not there")
        return self._urls[name]


def failures_by_id(answer: Mapping[str, Any]) -> Sequence[SendFailure]:
    """The `Failed` entries of an SNS or SQS batch answer."""
    return [
        SendFailure(int(f["Id"]), f"{f['Code']}: {f.get('Message', '')}", final=bool(f.get("SenderFault")))
        for f in answer.get("Failed", ())
    ]


def _count(request: Any, event_name: str = "", **other: Any) -> None:
    # `before-send.sqs.ReceiveMessage`
    _, service, operation = event_name.split(".", 2)
    calls[service, operation] += 1
