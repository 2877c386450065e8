"""A simulated provider: it keeps a ledger of its own, honours idempotency keys with a life, and can be made to fail.

Its ledger lies in a database of its own, written on connections of its own: it is the oracle of the fault tests.
Only `services/payment` and `services/shipping` use this, behind their provider protocols.
"""

from simulator.faults import Faults
from simulator.ledger import LedgerEntry
from simulator.provider import Simulated

__all__ = ["Faults", "LedgerEntry", "Simulated"]
