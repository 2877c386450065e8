"""The two ways a service runs: under gunicorn, or as a worker without a port. See `orderflow.serve`."""

from __future__ import annotations

from typing import Final

MIGRATION_PATIENCE: Final = 3.0
"""Seconds that a start waits for the database; then it goes on without, and the workers keep trying."""
