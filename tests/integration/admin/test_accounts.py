"""Firms with real money and test clocks never meet, whatever the database holds."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dunwell_server.admin.service import clocks, firms
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.store import firms as store
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database
from dunwell_server.platform.keys import Keys
from dunwell_server.providers.manual import ManualProvider
from dunwell_server.providers.registry import ProviderRegistry
from tests import support

MakeFirm = Callable[..., Awaitable[CallContext]]


async def add_account(db: Database, firm: uuid.UUID | None, mode: str, provider: str = "stripe") -> None:
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, %s, %s, %s, '', 'k')",
            (uuid.uuid4(), firm, provider, mode),
        )


async def test_a_firm_with_a_live_account_gets_no_clock(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    await add_account(db, firm.firm_id, "LIVE")
    with pytest.raises(DunwellError) as refused:
        async with db.transaction(firm) as uow:
            await clocks.create(uow, datetime(2026, 1, 1, tzinfo=UTC))
    assert refused.value.reason is Reason.PROVIDER_MODE_MISMATCH
    async with db.transaction(firm, write=False) as uow:
        assert not uow.clock.is_test


async def test_a_default_provider_of_the_other_mode_is_refused(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    assert firm.firm_id is not None
    await add_account(db, firm.firm_id, "LIVE")
    registry = ProviderRegistry()
    registry.register("stripe", ManualProvider)
    installation = Installation(Vault.of(Keys(support.SECRET)), registry, "stripe")
    values: dict[str, Any] = {"default_provider": "stripe"}
    async with db.transaction(support.context(None)) as uow:
        record = await firms.lock(uow, firm.firm_id, None)
        changed = type(record)(**{**_fields(record), "settings": type(record.settings)(**values)})
        with pytest.raises(DunwellError) as refused:
            await firms.update(uow, changed, ["default_provider"], installation)
    assert refused.value.reason is Reason.PROVIDER_MODE_MISMATCH


async def test_the_platforms_account_serves_firms_that_have_none(db: Database, make_firm: MakeFirm) -> None:
    firm, own = await make_firm(), await make_firm()
    assert firm.firm_id is not None
    assert own.firm_id is not None
    await add_account(db, None, "TEST", "paypal")
    await add_account(db, own.firm_id, "TEST", "paypal")
    async with db.transaction(firm, write=False) as uow:
        assert [account.firm_id for account in await store.accounts(uow, firm.firm_id)] == [None]
    async with db.transaction(own, write=False) as uow:
        assert [account.firm_id for account in await store.accounts(uow, own.firm_id)] == [own.firm_id, None]


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}
