"""Clients of an emulator's AWS API, for the tests' own calls."""

from __future__ import annotations

from typing import Any

import boto3


def client(service: str, endpoint: str, **more: Any) -> Any:
    """A client of the test account; `more` goes to boto3."""
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
        **more,
    )  # fmt: skip
