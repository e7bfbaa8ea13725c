"""Terms as the firm's switches leave them: with ENABLE_PRORATION off, partial periods are billed in full, whatever was agreed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dunwell_server.billing.model import Engagement, PartialPeriods
from dunwell_server.billing.store.package_due import DueEngagement
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, is_enabled


def in_force(uow: UnitOfWork, engagement: Engagement) -> Engagement:
    """The engagement as it is billed now; only for computing, never to be written."""
    if is_enabled(uow, Feature.PRORATION):
        return engagement
    return replace(engagement, partial_periods=PartialPeriods.FULL)


def due_in_force(uow: UnitOfWork, due: Sequence[DueEngagement]) -> Sequence[DueEngagement]:
    """The engagements of a run as they are billed now."""
    if is_enabled(uow, Feature.PRORATION):
        return due
    return [engagement._replace(partial_periods=PartialPeriods.FULL.value) for engagement in due]
