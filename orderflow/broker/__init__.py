"""What orderflow asks of a broker (`protocol`), in memory and on AWS (`aws`)."""

from orderflow.broker.protocol import (
    BATCH,
    BATCH_BYTES,
    HOLD,
    BatchRefused,
    Broker,
    DeadLetter,
    DeadLetterQueue,
    Delivery,
    Parcel,
    Queue,
    SendFailure,
)

__all__ = [
    "BATCH",
    "BATCH_BYTES",
    "HOLD",
    "BatchRefused",
    "Broker",
    "DeadLetter",
    "DeadLetterQueue",
    "Delivery",
    "Parcel",
    "Queue",
    "SendFailure",
]
