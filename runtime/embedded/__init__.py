"""Programs of this machine under a supervisor: LocalStack and PostgreSQL from PyPI, services from this checkout."""

from runtime.embedded.system import EmbeddedRuntime

__all__ = ["EmbeddedRuntime"]
