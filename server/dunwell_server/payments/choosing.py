"""Which of a client's methods is charged. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from dunwell_server.payments.model import MethodState, PaymentMethod


@dataclass(frozen=True, slots=True)
class Choice:
    """The method to charge, or none; `blocked` is the one that would be, if its client acted."""

    method: PaymentMethod | None
    blocked: PaymentMethod | None = None


def choose(methods: Sequence[PaymentMethod], own_id: UUID | None, default_id: UUID | None) -> Choice:
    """The invoice's own method if usable, else the client's default, else the first usable backup in its order.

    A backup stands in for a method that is gone or dead, not for one that waits for its client: that one's slots pass without a call.
    """
    by_id = {method.id: method for method in methods}
    preferred = [by_id[wanted] for wanted in (own_id, default_id) if wanted is not None and wanted in by_id]
    for method in preferred:
        if method.usable:
            return Choice(method)
    for method in preferred:
        if method.state is MethodState.NEEDS_ACTION:
            return Choice(None, method)
    return Choice(next_backup(methods, None, tried=()))


def next_backup(
    methods: Sequence[PaymentMethod], default_id: UUID | None, tried: Collection[UUID]
) -> PaymentMethod | None:
    """What is charged at once after a method has died: the default, then the backups in their order, none of them twice."""
    usable = [method for method in methods if method.usable and method.id not in tried]
    for method in usable:
        if method.id == default_id:
            return method
    backups = [method for method in usable if method.backup_priority > 0]
    return min(backups, key=lambda method: (method.backup_priority, method.id)) if backups else None


def best_at(
    methods: Sequence[PaymentMethod], provider: str, own_id: UUID | None, default_id: UUID | None
) -> PaymentMethod | None:
    """A client's best usable method at one provider: its own, default, backups in order, then the newest."""
    there = [method for method in methods if method.provider == provider and method.usable]
    if not there:
        return None
    chosen = choose(there, own_id, default_id).method
    return chosen or max(there, key=lambda method: (method.create_time, method.id))
