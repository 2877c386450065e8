"""Events over an EventBridge bus with classic rules; each rule's target gets `$.detail`, the envelope itself.

https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orderflow.bus import Parcel, SendFailure
from orderflow.bus.aws import Clients

_FINAL: Final = frozenset({"MalformedDetail", "InvalidArgument", "EntrySizeTooLarge", "ValidationException"})


class EventBridgeBus:
    """The stack's event bus as a destination."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def send(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Puts up to ten events in one call; failures are matched by index. Raises BrokerUnavailable."""
        entries = [
            {
                "EventBusName": self._clients.stack,
                "Source": "orderflow",
                "DetailType": parcel.envelope.type,
                "Detail": parcel.body,
            }
            for parcel in batch
        ]
        with self._clients.guard("events"):
            answer = self._clients.events.put_events(Entries=entries)
        if not answer.get("FailedEntryCount"):
            return ()
        return [
            SendFailure(i, f"{code}: {result.get('ErrorMessage', '')}", final=code in _FINAL)
            for i, result in enumerate(answer["Entries"])
            if (code := result.get("ErrorCode"))
        ]
