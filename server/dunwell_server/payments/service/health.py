"""The warning of cards that are about to expire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.health import WARNING_DAYS, expiry_text, last_day
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.store import health
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.questions import Question

_BATCH: Final = 500


def expiring_due(uow: UnitOfWork, today: date) -> Question[bool]:
    """Whether a card expires within the days of the warning, and nobody was warned of it."""
    return health.any_expiring(uow, today, today + timedelta(days=WARNING_DAYS))


async def warn_of_expiring(uow: UnitOfWork) -> Sequence[PaymentMethod]:
    """Tell of a batch of cards about to expire, each once per date of expiry; returns those told of."""
    today = local_date(uow.now, uow.firm.settings.zone)
    found = await health.take_expiring(uow, today, today + timedelta(days=WARNING_DAYS), _BATCH)
    await record(uow, *(_expiring(method) for method in found))
    return found


def _expiring(method: PaymentMethod) -> Change:
    ends = last_day(method.exp_month, method.exp_year)
    assert ends is not None
    metadata = {
        "client_id": encode(Prefix.CLIENT, method.client_id), "provider": method.provider, "brand": method.brand, "last4": method.last4,
        "expiry": expiry_text(ends), "last_day": ends.isoformat(), "is_default": method.is_default,
    }  # fmt: skip
    return Change(
        Category.PAYMENT, "payment_method_expiring", "payment_method", method.id, "payment_method.expiring", Severity.WARNING, metadata
    )  # fmt: skip
