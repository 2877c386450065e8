"""Simulated providers. They honour idempotency keys for a limited time, and can be made to fail.

They keep their ledger in a database of its own, over connections of their own. The fault tests use it as their oracle.
Only `services/payment` and `services/shipping` use this package, behind their provider protocols.
"""

from simulator.faults import Faults
from simulator.ledger import LedgerEntry
from simulator.provider import Simulated

__all__ = ["Faults", "LedgerEntry", "Simulated"]
