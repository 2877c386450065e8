"""A real system in containers, with the verbs that tests need."""

from __future__ import annotations

from typing import Any

from orderflow.routing import SERVICES
from runtime import ContainerRuntime
from runtime.containers.docker import docker
from tests.support import container_parts
from tests.support.system import System


class ContainerSystem(System):
    """A system in containers. Tests query the databases from outside, on the ports that the containers publish."""

    runtime: ContainerRuntime  # type: ignore[assignment]

    def _database_urls(self) -> dict[str, str]:
        settings = self.runtime._settings
        passwords = {o: settings.get(f"{o.upper()}_DATABASE_PASSWORD") or o for o in (*SERVICES, "providers")}
        return {
            owner: f"postgresql://orderflow_{owner}:{password}@127.0.0.1:{self.ports['POSTGRES_PORT']}/orderflow_{owner}"
            for owner, password in passwords.items()
        }

    def stock(self) -> dict[str, tuple[int, int]]:
        """SKU → (available, reserved), over HTTP."""
        return {item["sku"]: (item["available"], item["reserved"]) for item in self.get("inventory", "/stock")["items"]}

    def ledger_entries(self, provider: str, order_id: str) -> list[dict[str, Any]]:
        """What a provider did for an order, from its own ledger, over HTTP; oldest first."""
        items: list[dict[str, Any]] = self.get(provider, f"/simulator/ledger?order_id={order_id}")["items"]
        return sorted(items, key=lambda item: str(item["at"]))

    def run_in(self, part: str, *command: str) -> str:
        """The output of a command in a part's container; the command must succeed."""
        (container,) = [c for c in self.runtime.containers() if c.service == part]
        done = docker("exec", container.id, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def restart(self, part: str) -> None:
        """Starts a part again, and waits until everything is ready; LocalStack may take its time."""
        container_parts.start(self.runtime, part)
        self.until_ready(300)
