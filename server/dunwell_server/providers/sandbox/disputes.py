"""Disputes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import ProviderDispute, ProviderDisputeState
from dunwell_server.providers.base import ProviderAccount
from dunwell_server.providers.sandbox.reading import Body, instant, path, text, texts
from dunwell_server.providers.sandbox.wire import Wire

_STATES: Final = {state.value.lower(): state for state in ProviderDisputeState}
_DISPUTES: Final = "/v1/disputes"


class DisputeCalls(Wire):
    """`abilities.Disputes`."""

    async def get_dispute(self, account: ProviderAccount, reference: str) -> ProviderDispute:
        return await self.read(account, "GET", path(_DISPUTES, reference), provider_dispute)

    async def upload_evidence_file(
        self, account: ProviderAccount, name: str, content_type: str, content: bytes, key: str
    ) -> str:
        return await self.read(
            account,
            "POST",
            "/v1/files",
            lambda body: text(body, "id"),
            key=key,
            params={"name": name},
            content=content,
            content_type=content_type,
        )

    async def stage_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        return await self._evidence(account, reference, evidence, key, submit=False)

    async def submit_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        return await self._evidence(account, reference, evidence, key, submit=True)

    async def accept_dispute(self, account: ProviderAccount, reference: str, key: str) -> ProviderDispute:
        return await self.read(account, "POST", path(_DISPUTES, reference, "close"), provider_dispute, key=key)

    async def _evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str, *, submit: bool
    ) -> ProviderDispute:
        body = {"evidence": dict(evidence), "submit": submit}
        return await self.read(account, "POST", path(_DISPUTES, reference), provider_dispute, key=key, json=body)


def provider_dispute(dispute: Body) -> ProviderDispute:
    """A dispute of the gateway. Raises when it is none, or has a status nobody knows."""
    currency = dispute["currency"]
    return ProviderDispute(
        provider_reference=text(dispute, "id"),
        payment_reference=text(dispute, "payment"),
        state=_STATES[dispute["status"]],
        reason=text(dispute, "reason"),
        money=Money(currency, dispute["amount"]),
        fee=Money(currency, dispute["fee"]),
        funds_withdrawn=bool(dispute["funds_withdrawn"]),
        respond_by=instant(dispute["respond_by"]),
        submission_count=int(dispute["submission_count"]),
        metadata=texts(dispute["metadata"]),
        created_time=instant(dispute["created"]),
    )
