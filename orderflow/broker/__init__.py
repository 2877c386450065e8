"""What orderflow needs from a broker (`protocol`), with an implementation in memory and one on AWS (`aws`)."""

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
