"""Set-up intents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dunwell_server.providers.abilities import SetupDetails, SetupState
from dunwell_server.providers.base import CustomerRef, ProviderAccount, ProviderRefused
from dunwell_server.providers.declines import failure_code_of
from dunwell_server.providers.sandbox.reading import Body, maybe_method, obj, path, text, texts
from dunwell_server.providers.sandbox.wire import Wire

_STATES: Final = {
    "requires_payment_method": SetupState.OPEN,
    "requires_action": SetupState.OPEN,
    "processing": SetupState.PROCESSING,
    "succeeded": SetupState.SUCCEEDED,
    "canceled": SetupState.CANCELLED,
}
_PREFIX: Final = "sk_test_"


class SetupCalls(Wire):
    """`abilities.SetupIntents`."""

    async def create_setup_intent(
        self, account: ProviderAccount, customer: CustomerRef, key: str, metadata: Mapping[str, str]
    ) -> SetupDetails:
        body = {"customer": customer.provider_reference, "metadata": {**metadata, "key": key}}
        return await self.read(
            account, "POST", "/v1/setup_intents", lambda found: _of(account, found), key=key, json=body
        )

    async def get_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        return await self.read(account, "GET", path("/v1/setup_intents", reference), lambda found: _of(account, found))

    async def cancel_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        try:
            return await self.read(
                account, "POST", path("/v1/setup_intents", reference, "cancel"), lambda found: _of(account, found)
            )
        except ProviderRefused as refused:
            if refused.provider_code == "resource_missing":
                raise
            # What has ended cannot be cancelled: say what it is.
            return await self.get_setup_intent(account, reference)


def publishable_key(account: ProviderAccount) -> str | None:
    """What a browser shows itself with: the account's own, or the one that goes with its secret key."""
    given: str | None = account.credentials.get("publishable_key")
    secret: str = account.credentials.get("secret_key", "")
    return given or (f"pk_test_{secret.removeprefix(_PREFIX)}" if secret.startswith(_PREFIX) else None)


def _of(account: ProviderAccount, body: Body) -> SetupDetails:
    return setup_details(body, client_secret=text(body, "client_secret"), browser_key=publishable_key(account))


def setup_details(setup: Body, *, client_secret: str | None = None, browser_key: str | None = None) -> SetupDetails:
    """A set-up intent of the gateway. Raises when it is none, or has a status nobody knows."""
    error = setup["last_setup_error"]
    state = _STATES[setup["status"]]
    if error is not None and setup["status"] == "requires_payment_method":
        state = SetupState.FAILED
    return SetupDetails(
        provider_reference=text(setup, "id"),
        state=state,
        client_secret=client_secret,
        publishable_key=browser_key,
        customer_reference=text(setup, "customer"),
        method=maybe_method(setup["payment_method"]),
        failure_code=None
        if error is None
        else failure_code_of(obj(error).get("decline_code"), obj(error).get("code")).value,
        metadata=texts(setup["metadata"]),
    )
