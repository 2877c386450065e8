"""Events over one SNS topic. Subscribers filter on the message attributes `type` and `workflow`.

https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orderflow.broker import Parcel, SendFailure
from orderflow.broker.aws.clients import Clients, failures_by_id


class SnsTopic:
    """The stack's topic as a destination."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def send(self, batch: Sequence[Parcel]) -> Sequence[SendFailure]:
        """Publishes up to ten messages in one call. Raises what `Broker.send` raises."""
        entries = [_entry(str(i), parcel) for i, parcel in enumerate(batch)]
        with self._clients.sending("sns"):
            answer = self._clients.sns.publish_batch(
                TopicArn=self._clients.arn("sns", f"{self._clients.stack}-events"), PublishBatchRequestEntries=entries
            )
        return failures_by_id("sns", answer)


def _entry(entry_id: str, parcel: Parcel) -> dict[str, Any]:
    envelope = parcel.envelope
    return {
        "Id": entry_id,
        "Message": parcel.body,
        "MessageAttributes": {
            "type": {"DataType": "String", "StringValue": envelope.type},
            "workflow": {"DataType": "String", "StringValue": envelope.workflow.value},
        },
    }
