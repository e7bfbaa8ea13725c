"""The worlds of the payments suite: a dispute is about a payment."""

from tests.integration.payments.conftest import db, gateway, make_world, workers, world

__all__ = ["db", "gateway", "make_world", "workers", "world"]
