"""The envelope of every message: CloudEvents 1.0 in JSON, with the extensions that orderflow needs.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orderflow import clock, metrics
from orderflow.contracts import MESSAGES, TEXT, EventBus, Id, Message, Workflow, name_of, type_of
from orderflow.errors import NewerVersion, Undecodable

MAX_BYTES: Final = 192 * 1024
"""Our limit for an encoded envelope. SNS, SQS and EventBridge accept 256 KiB per call, attributes included."""

_TYPE: Final = re.compile(r"orderflow\.([A-Za-z]+)\.v([1-9][0-9]{0,3})")
_JSON: Final = re.compile(r"application/([a-z0-9.-]+\+)?json *(;.*)?", re.IGNORECASE)
"""JSON's media types, with or without parameters. RFC 8259, 11; RFC 6839, 3.1"""

_OPTIONAL: Final = {"datacontenttype", "dataschema", "time", "traceparent", "causationid", "resend"}
"""Metadata without which a message can be handled."""

ignored: Final = metrics.Counts(
    "envelope_attributes_ignored", "Optional attributes of messages that could not be used", "attribute"
)


class Envelope(BaseModel):
    """A message in its envelope. `subject` is the order's id; `resend` counts how often it has been resent."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: Id
    source: Annotated[str, Field(min_length=1, max_length=200, pattern=TEXT)]
    type: Annotated[str, Field(max_length=200)]
    subject: Id
    time: Annotated[str, Field(max_length=40)] | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Annotated[str, Field(max_length=300)] = ""
    data: dict[str, Any]
    traceparent: Annotated[str, Field(max_length=55, pattern=TEXT)] | None = None
    workflow: Workflow
    eventbus: EventBus
    causationid: Id | None = None
    resend: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    tasktoken: Annotated[str, Field(max_length=2048)] | None = None

    @property
    def name(self) -> str:
        """The short name of its type, such as `StockReserved`."""
        match = _TYPE.fullmatch(self.type)
        return match[1] if match else self.type

    @property
    def sender(self) -> str:
        """The service that its source names."""
        return sender_of(self.source)

    @property
    def about(self) -> dict[str, str]:
        """Fields for a log line: ids and types, no personal data."""
        found = {"order_id": self.subject, "message_id": self.id, "type": self.name, "workflow": self.workflow.value}
        if self.traceparent and self.traceparent.count("-") == 3:
            found["trace_id"] = self.traceparent.split("-")[1]
        return found

    def encode(self) -> str:
        """JSON in ASCII, so that it has as many bytes as characters and every broker accepts it."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), separators=(",", ":"))

    def message(self) -> Message:
        """The typed content. Raises Undecodable (unknown type, wrong data) or NewerVersion."""
        match = _TYPE.fullmatch(self.type)
        model = MESSAGES.get(match[1]) if match else None
        if match is None or model is None:
            raise Undecodable(f"unknown message type {self.type[:100]!r}")
        if int(match[2]) > model.version:
            raise NewerVersion(f"{self.type} is newer than this process, which knows up to v{model.version}")
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            raise Undecodable(f"data of {self.type} doesn't fit: {_first(error)}") from None

    def again(self) -> Envelope:
        """The same message, resent: the same id, `resend` + 1."""
        return self.model_copy(update={"resend": self.resend + 1})


def sender_of(source: str) -> str:
    """The service that a CloudEvents `source` names."""
    return source.removeprefix("orderflow/")


def decode(body: str) -> Envelope:
    """The envelope in `body`. Raises Undecodable, naming the first field that is wrong."""
    if len(body) > MAX_BYTES:
        raise Undecodable(f"{len(body)} bytes are over the cap of {MAX_BYTES}")
    try:
        try:
            return Envelope.model_validate_json(body)
        except ValidationError as error:
            return _without_what_is_optional(body, error)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"no envelope: {error}") from None


def _without_what_is_optional(body: str, error: ValidationError) -> Envelope:
    """Decodes an envelope that did not fit at first: null counts as not set (CloudEvents JSON format, 2.2), and
    optional metadata that can't be used is ignored and counted. Raises Undecodable if a required part is wrong."""
    wrong = {str(e["loc"][0]): e for e in error.errors(include_url=False, include_context=False) if e["loc"]}
    dropped: list[str] = []
    if wrong and wrong.keys() <= _OPTIONAL:
        found = json.loads(body)
        for name in wrong:
            value = found.pop(name)
            if name == "datacontenttype" and value is not None:
                if not (isinstance(value, str) and _JSON.fullmatch(value)):
                    raise Undecodable(f"no envelope: {name}: {value!r:.100} is not JSON")
            elif value is not None:
                dropped.append(name)
        try:
            envelope = Envelope.model_validate(found)
        except ValidationError as other:
            raise Undecodable(f"no envelope: {_first(other)}") from None
        for name in dropped:
            ignored[name,] += 1
        return envelope
    raise Undecodable(f"no envelope: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((e for e in found if e["loc"] and e["loc"][0] not in _OPTIONAL), found[0])
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def compose(
    message: Message,
    *,
    source: str,
    order_id: str,
    workflow: Workflow,
    event_bus: EventBus,
    message_id: str | None = None,
    causation_id: str | None = None,
    traceparent: str | None = None,
    resend: int = 0,
    task_token: str | None = None,
) -> Envelope:
    """A new envelope around `message`, with an id of its own unless `message_id` is given."""
    return Envelope(
        id=message_id or clock.new_id(),
        source=f"orderflow/{source}",
        type=type_of(message),
        subject=order_id,
        time=clock.rfc3339(clock.utc_now()),
        dataschema=f"urn:orderflow:{name_of(message)}:v{message.version}",
        data=message.model_dump(mode="json", exclude_none=True),
        traceparent=traceparent,
        workflow=workflow,
        eventbus=event_bus,
        causationid=causation_id,
        resend=resend,
        tasktoken=task_token,
    )
