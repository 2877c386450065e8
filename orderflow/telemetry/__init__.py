"""One connected trace per order, over every hop, by OpenTelemetry's messaging conventions.

The context of the span that causes a message travels in its envelope (`traceparent`): the process span of the message
is that span's child, and linked to the receive span of its batch. Without a tracer (no OTLP endpoint, or
OTEL_SDK_DISABLED), contexts are still passed on, but nothing else is done.
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from orderflow.telemetry.spans import provider_call, transaction
from orderflow.telemetry.tracer import about_order, new_trace, provider, recorded, start, stop, trace_id, use

__all__ = [
    "about_order",
    "new_trace",
    "provider",
    "provider_call",
    "recorded",
    "start",
    "stop",
    "trace_id",
    "transaction",
    "use",
]
