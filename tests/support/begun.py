"""A run of a system that began, and went no further: for tests of what ends it, or starts after it."""

from __future__ import annotations

from runtime import EmbeddedRuntime
from tests.support import parts
from tests.support.system import until


def begin(runtime: EmbeddedRuntime, *names: str) -> None:
    """Starts the supervisor of a system that is stopped, PostgreSQL, and these parts, without waiting for them. That
    is a tenth of a whole start's work."""
    plan, postgres = runtime.plan, runtime._postgres()
    runtime.home.make()
    runtime._supervisor.write(runtime._programs(plan, postgres))
    runtime._supervisor.start_daemon(runtime._base_environment())
    postgres.prepare()
    parts.start(runtime, "postgres")
    until(postgres.answers)
    postgres.create_databases()
    for name in names:
        parts.start(runtime, name)
