"""Processes under supervisord: LocalStack and PostgreSQL from PyPI, the services from this checkout."""

from runtime.embedded.system import EmbeddedRuntime

__all__ = ["EmbeddedRuntime"]
