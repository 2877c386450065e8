"""A simulated provider: it keeps a ledger of its own, honours idempotency keys with a life, and can be made to fail.

Its ledger lies in a database of its own, written on connections of its own: it is the oracle of the fault tests.
Only `services/payment` and `services/shipping` use this, behind their provider protocols.
"""

from orderflow.simulator.faults import Faults
from orderflow.simulator.ledger import LedgerEntry
from orderflow.simulator.provider import Simulated

__all__ = ["Faults", "LedgerEntry", "Simulated"]
