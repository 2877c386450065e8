"""Types of fields that several APIs share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import PlainSerializer, WithJsonSchema

from orderflow.clock import rfc3339

Time = Annotated[datetime, PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time in an answer."""

LINE: Final = r"^[^\x00-\x1f\x7f]*$"
"""The pattern of text on one line, without control characters."""
