"""Whose object a provider's id names, at accounts that several firms share.

Whoever creates an object at a provider (customer, payment, set-up, page, refund, …) remembers its id in the transaction that
stores the outcome. Events of the platform's accounts find their firm by it, where the object's own metadata does not tell.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork

_REMEMBER: Final = """
INSERT INTO control.provider_reference (account_id, reference, firm_id)
SELECT a.id, r.reference, %(firm_id)s FROM control.provider_account a, unnest(%(references)s::text[]) AS r (reference)
WHERE a.id = %(account_id)s AND a.firm_id IS NULL
ORDER BY 2 ON CONFLICT DO NOTHING
"""
_OWNER: Final = """
SELECT firm_id FROM control.provider_reference WHERE account_id = %(account_id)s AND reference = %(reference)s
"""


async def remember(uow: UnitOfWork, account_id: UUID | None, *references: str | None) -> None:
    """Note that these objects of the account are the firm's. None and what is known already change nothing, nor does a firm's own account.

    The first firm keeps an object: what is noted as another firm's stays so (see `owner_of`).
    """
    wanted = sorted({reference for reference in references if reference})
    if account_id is not None and wanted:
        values = {"account_id": account_id, "references": wanted, "firm_id": uow.firm_id}
        await uow.execute(_REMEMBER, values)


async def owner_of(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The firm whose object it is; None where nobody noted it, and for firms' own accounts. Ask before adopting an object by its id."""
    owner: UUID | None = await uow.fetch_value(_OWNER, {"account_id": account_id, "reference": reference})
    return owner
