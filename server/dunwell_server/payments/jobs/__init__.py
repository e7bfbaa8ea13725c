"""What spans transactions: the only room of payments that commits or calls providers, never both at once."""

from dunwell_server.payments.jobs.attaching import MethodKeeper
from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.checking import Checker
from dunwell_server.payments.jobs.collection import CollectionRunExecutor
from dunwell_server.payments.jobs.gateways import Gateways, Vault
from dunwell_server.payments.jobs.handlers import AttemptsHandler, CollectHandler
from dunwell_server.payments.jobs.reconciling import ReconciliationExecutor
from dunwell_server.payments.jobs.refunding import Refunder, RefundsHandler

__all__ = [
    "AttemptsHandler",
    "Charger",
    "Checker",
    "CollectHandler",
    "CollectionRunExecutor",
    "Gateways",
    "MethodKeeper",
    "ReconciliationExecutor",
    "Refunder",
    "RefundsHandler",
    "Vault",
]
