"""Sends a batch in one call. If that is refused, perhaps because of one message, sends each message in its own call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orderflow.broker import BatchRefused, Broker, SendFailure
from orderflow.errors import BrokerUnavailable
from orderflow.messaging.backlog import Entry
from orderflow.routing import Channel


def send(broker: Broker, channel: Channel, target: str, batch: Sequence[Entry]) -> list[SendFailure]:
    """Sends up to ten messages to one destination. Returns those that were not accepted, in their order.

    Never raises the broker's errors: if the destination is unavailable, each message is a failure."""
    try:
        failures = broker.send(channel, target, [entry.parcel for entry in batch])
        return sorted(failures, key=lambda failure: failure.index)
    except BrokerUnavailable as error:
        return [SendFailure(i, str(error), False, error.code, destination=True) for i in range(len(batch))]
    except BatchRefused as error:
        if len(batch) == 1:
            return [SendFailure(0, str(error), error.final, error.code)]
    found: list[SendFailure] = []
    for i, entry in enumerate(batch):
        failed = send(broker, channel, target, [entry])
        found += [replace(failure, index=i) for failure in failed]
        if failed and failed[0].destination:  # it is unavailable: stop here, and keep what it has accepted
            return found + [replace(failed[0], index=j) for j in range(i + 1, len(batch))]
    return found
