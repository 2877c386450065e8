"""Events over an EventBridge bus with classic rules; each rule's target gets `$.detail`, the envelope itself.

https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
"""

from __future__ import annotations

from collections.abc import Sequence

from orderflow.broker import Parcel, SendFailure
from orderflow.broker.aws.clients import Clients, failure


class EventBridgeBus:
    """The stack's event bus as a destination."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def send(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Puts up to ten events in one call; failures are matched by index. Raises what `Broker.send` raises."""
        entries = [
            {
                "EventBusName": self._clients.stack,
                "Source": "orderflow",
                "DetailType": parcel.envelope.type,
                "Detail": parcel.body,
            }
            for parcel in batch
        ]
        with self._clients.sending("events"):
            answer = self._clients.events.put_events(Entries=entries)
        if not answer.get("FailedEntryCount"):
            return ()
        return [
            failure("events", i, code, result.get("ErrorMessage", ""))
            for i, result in enumerate(answer["Entries"])
            if (code := result.get("ErrorCode"))
        ]
