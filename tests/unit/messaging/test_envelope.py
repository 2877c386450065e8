"""What of a message decides its fate, and what does not: CloudEvents in JSON as others write them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest

from orderflow import clock, envelope
from orderflow import contracts as c
from orderflow.contracts import EventBus, Workflow
from orderflow.envelope import Envelope, compose, decode
from orderflow.errors import Undecodable


def sent(**changes: Any) -> str:
    """A valid message, as JSON, with changes; `...` leaves an attribute out."""
    made = compose(
        c.StockReleased(),
        source="inventory",
        order_id=clock.new_id(),
        workflow=Workflow.CHOREOGRAPHY,
        event_bus=EventBus.SNS,
        causation_id=clock.new_id(),
    )
    found = json.loads(made.encode()) | changes
    return json.dumps({name: value for name, value in found.items() if value is not ...})


OPTIONAL = ("datacontenttype", "dataschema", "time", "traceparent", "causationid", "resend", "tasktoken")


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("value", [None, ...], ids=["null", "absent"])
def test_null_counts_as_not_set(name: str, value: object) -> None:
    """CloudEvents JSON format, 2.2. https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md"""
    before = envelope.ignored.total()
    read = decode(sent(**{name: value}))
    assert getattr(read, name) == Envelope.model_fields[name].default
    assert envelope.ignored.total() == before, "nothing is wrong with it"
    assert decode(read.encode()) == read


@pytest.mark.parametrize(
    "value",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/vnd.x+json"],
)
def test_json_is_json(value: str) -> None:
    assert decode(sent(datacontenttype=value)).datacontenttype == "application/json"


@pytest.mark.parametrize("value", ["text/xml", "application/jsonp", "application/xml; q=json", 7, ""])
def test_what_is_no_json_is_named(value: object) -> None:
    with pytest.raises(Undecodable, match="datacontenttype"):
        decode(sent(datacontenttype=value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataschema", 7),
        ("dataschema", "x" * 301),
        ("time", "x" * 41),
        ("time", {}),
        ("traceparent", "x" * 56),
        ("traceparent", "a\x00b"),
        ("causationid", "no id"),
        ("causationid", []),
        ("resend", -1),
        ("resend", "often"),
        ("resend", 1.5),
    ],
)
def test_what_is_optional_and_unusable_is_ignored_and_counted(name: str, value: object) -> None:
    before = envelope.ignored[name,]
    read = decode(sent(**{name: value}))
    assert getattr(read, name) == Envelope.model_fields[name].default
    assert envelope.ignored[name,] == before + 1
    assert read.message() == c.StockReleased()


@pytest.mark.parametrize("value", ["1" + "0" * 5000, "[" * 100_000, '"\\ud800"', "NaN", "-"])
def test_whatever_stands_there_is_no_error_of_ours(value: str) -> None:
    """Numbers and depths that Python's parser refuses: the message can be read, or is refused as one that can't be."""
    body = sent(resend="here").replace('"here"', value)
    with suppress(Undecodable):
        assert decode(body).resend == 0


@pytest.mark.parametrize(
    "name", ["specversion", "id", "source", "type", "subject", "data", "workflow", "eventbus", "tasktoken"]
)
def test_what_is_needed_and_wrong_is_named(name: str) -> None:
    """Also beside something optional that is wrong. A task token that can't be read would leave its task waiting."""
    for more in ({}, {"dataschema": 7, "resend": None}):
        with pytest.raises(Undecodable, match=f"no envelope: {name}"):
            decode(sent(**{name: ["x"]}, **more))
