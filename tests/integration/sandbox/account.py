"""The gateway's API as a test speaks it, without the adapter in between."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx


class SandboxAccount:
    """One account at a gateway."""

    def __init__(self, url: str, name: str, timeout: float = 10.0) -> None:
        self.name = name
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer sk_test_{name}"},
            timeout=timeout,
            limits=httpx.Limits(max_connections=100),
            trust_env=False,
        )

    async def charge(
        self, method: str = "pm_card_visa", *, key: str | None = None, amount: int = 1000, **more: Any
    ) -> httpx.Response:
        """POST /v1/payments; the reference is the key unless given."""
        key = key or uuid4().hex
        body = {"amount": amount, "currency": "USD", "payment_method": method, "reference": key} | more
        return await self.http.post("/v1/payments", json=body, headers={"Idempotency-Key": key})

    async def refund(self, payment: str, *, key: str | None = None, **more: Any) -> httpx.Response:
        """POST /v1/refunds."""
        body = {"payment": payment} | more
        return await self.http.post("/v1/refunds", json=body, headers={"Idempotency-Key": key or uuid4().hex})

    async def events(self, prefix: str = "") -> list[str]:
        """The types of what happened so far, oldest first."""
        found = (await self.get("/v1/events", limit=100))["data"]
        return [event["type"] for event in found if event["type"].startswith(prefix)]

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    async def get(self, path: str, **params: Any) -> dict[str, Any]:
        response = await self.http.get(path, params=params)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    async def close(self) -> None:
        await self.http.aclose()
