"""ImportFirm across transactions: a file that was refused is forgotten, in a transaction of its own, as the refusal undid the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

from dunwell_server.admin.service import importing
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database

T = TypeVar("T")
FOR_GOOD: Final = frozenset(
    {Reason.IMPORT_DAMAGED, Reason.IMPORT_UNVERIFIED, Reason.ALREADY_EXISTS, Reason.EXTERNAL_ID_TAKEN}
)
"""Refusals that the same file would meet again."""


async def finish_or_forget(
    database: Database, context: CallContext, import_id: UUID, finish: Callable[[], Awaitable[T]]
) -> T:
    """What `finish` gives. Where it refuses the file for good nothing of the file stays; its refusal is raised all the same."""
    try:
        return await finish()
    except DunwellError as error:
        if error.reason in FOR_GOOD:
            unbound = replace(context.unbound(), deadline=None)
            await database.run(unbound, lambda uow: importing.discard(uow, import_id))
        raise
