"""PgBouncer, as Debian packages it, in front of a test's databases."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.support.ports import free_port
from tests.support.system import until

_CONFIGURATION: Final = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 3
server_round_robin = 1
ignore_startup_parameters = {ignored}
"""


@contextmanager
def pooled(url: str, mode: str, *, ignored: str = "") -> Iterator[str]:
    """The address of a pooler, without a database's name. Each transaction uses another one of its three sessions."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("there is no pgbouncer (Debian's package of this name)")
    known = conninfo_to_dict(url)
    listen = free_port()
    at = f"postgresql://anyone@127.0.0.1:{listen}"
    with tempfile.TemporaryDirectory() as name, (log := Path(name) / "log").open("wb") as out:
        file = Path(name) / "pgbouncer.ini"
        file.write_text(_CONFIGURATION.format(**known, listen=listen, mode=mode, ignored=ignored))
        Path(name).chmod(0o755)
        file.chmod(0o644)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # it refuses to run as root
        process = subprocess.Popen([program, *user, str(file)], stdout=out, stderr=out)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                psycopg.connect(f"{at}/{known['dbname']}", connect_timeout=2).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            until(answers, 10, log.read_text)
            yield at
        finally:
            process.kill()
            process.wait()
