"""API keys through a real channel: who may make which, the secret shown once, revocation within seconds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import api_key_pb2
from dunwell_server.admin.jobs import create_admin_key, ensure_admin_key
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from tests import support
from tests.rpc.admin.conftest import KEYS, Served, new_key
from tests.rpc.floor.fakes import failure


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def test_a_key_opens_its_own_firm_with_its_role(served: Served) -> None:
    firm = await served.firm()
    made = await served.call(
        "CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key(Role.READER)), Role.FIRM_ADMIN, firm
    )
    assert made.secret.startswith("dw_test_")
    assert (made.api_key.firm_id, made.api_key.state) == (encode(Prefix.FIRM, firm), api_key_pb2.API_KEY_STATE_ACTIVE)
    seen = await served.stub.GetFirm(pb.GetFirmRequest(), metadata=bearer(made.secret))
    assert seen.firm.id == encode(Prefix.FIRM, firm)
    request = pb.CreateApiKeyRequest(api_key=new_key(Role.READER), request_id=str(uuid4()))
    assert (
        await failure(served.stub.CreateApiKey(request, metadata=bearer(made.secret)))
    ).reason == "PERMISSION_DENIED"


async def test_the_secret_is_shown_once_and_stored_nowhere(served: Served) -> None:
    firm = await served.firm()
    metadata = await served.metadata(Role.FIRM_ADMIN, firm)
    request = pb.CreateApiKeyRequest(api_key=new_key(), request_id=str(uuid4()))
    made = await served.call("CreateApiKey", request, metadata=metadata)
    again = await served.call("CreateApiKey", request, metadata=metadata)
    assert (again.api_key.id, again.secret) == (made.api_key.id, "")
    secret = made.secret.rpartition("_")[2]
    async with served.db.transaction(support.context(firm), write=False) as uow:
        for table in ("control.api_key", "idempotency", "audit_event", "event"):
            rows = await uow.fetch_all(f"SELECT t::text AS row FROM {table} t")
            assert rows
            assert not any(secret in row["row"] or secret.encode().hex() in row["row"] for row in rows), table


async def test_unbound_keys_are_made_by_admins_outside_of_firms(served: Served) -> None:
    firm = await served.firm()
    for role in (Role.ADMIN, Role.SIDECAR):
        made = await served.call("CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key(role)))
        assert made.api_key.firm_id == ""
        for caller, named in ((Role.FIRM_ADMIN, firm), (Role.ADMIN, firm)):
            request = pb.CreateApiKeyRequest(api_key=new_key(role))
            assert (await failure(served.call("CreateApiKey", request, caller, named))).reason == "PERMISSION_DENIED"
    assert (
        await failure(served.call("CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key())))
    ).reason == "FIRM_REQUIRED"
    async with served.db.transaction(support.context(None), write=False) as uow:
        told = await uow.fetch_value("SELECT count(*) FROM control.audit_event WHERE action = 'api_key_created'")
    assert told == 2


async def test_a_key_expires(served: Served) -> None:
    firm = await served.firm()

    def expiring(moment: datetime) -> pb.CreateApiKeyRequest:
        stamp = Timestamp()
        stamp.FromDatetime(moment)
        return pb.CreateApiKeyRequest(api_key=new_key(Role.READER, expire_time=stamp))

    past = datetime.now(UTC) - timedelta(minutes=1)
    assert (await failure(served.call("CreateApiKey", expiring(past), Role.FIRM_ADMIN, firm))).reason == "FIELD_INVALID"
    made = await served.call("CreateApiKey", expiring(datetime.now(UTC) + timedelta(seconds=3)), Role.FIRM_ADMIN, firm)
    await asyncio.sleep(3.2)
    found = await failure(served.stub.GetFirm(pb.GetFirmRequest(), metadata=bearer(made.secret)))
    assert found.reason == "CREDENTIAL_EXPIRED"
    listed = await served.call("ListApiKeys", pb.ListApiKeysRequest(include_inactive=True), Role.FIRM_ADMIN, firm)
    assert api_key_pb2.API_KEY_STATE_EXPIRED in [key.state for key in listed.api_keys]


async def test_revoking_works_within_seconds_and_twice(served: Served) -> None:
    firm = await served.firm()
    made = await served.call(
        "CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key(Role.READER)), Role.FIRM_ADMIN, firm
    )
    await served.stub.GetFirm(pb.GetFirmRequest(), metadata=bearer(made.secret))
    request = pb.RevokeApiKeyRequest(api_key_id=made.api_key.id)
    for _ in range(2):
        request.request_id = ""
        revoked = await served.call("RevokeApiKey", request, Role.FIRM_ADMIN, firm)
        assert revoked.api_key.state == api_key_pb2.API_KEY_STATE_REVOKED
    await asyncio.sleep(0.4)
    found = await failure(served.stub.GetFirm(pb.GetFirmRequest(), metadata=bearer(made.secret)))
    assert found.code is grpc.StatusCode.UNAUTHENTICATED
    async with served.db.transaction(support.context(firm), write=False) as uow:
        assert await uow.fetch_value("SELECT count(*) FROM audit_event WHERE action = 'api_key_revoked'") == 1


async def test_other_firms_keys_are_not_found(served: Served) -> None:
    mine, other = await served.firm(), await served.firm()
    made = await served.call("CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key()), Role.FIRM_ADMIN, other)
    for key_id in (made.api_key.id, encode(Prefix.API_KEY, uuid7())):
        request = pb.RevokeApiKeyRequest(api_key_id=key_id)
        assert (
            await failure(served.call("RevokeApiKey", request, Role.FIRM_ADMIN, mine))
        ).reason == "RESOURCE_NOT_FOUND"
    listed = await served.call("ListApiKeys", pb.ListApiKeysRequest(), Role.FIRM_ADMIN, mine)
    assert made.api_key.id not in [key.id for key in listed.api_keys]


async def test_keys_are_listed_page_by_page(served: Served) -> None:
    firm = await served.firm()
    metadata = await served.metadata(Role.ADMIN, firm)
    made = []
    for _ in range(4):
        response = await served.call("CreateApiKey", pb.CreateApiKeyRequest(api_key=new_key()), metadata=metadata)
        made.append(response.api_key.id)
    await served.call("RevokeApiKey", pb.RevokeApiKeyRequest(api_key_id=made[0]), metadata=metadata)
    seen, token = [], ""
    while True:
        page = await served.call("ListApiKeys", pb.ListApiKeysRequest(page_size=2, page_token=token), metadata=metadata)
        seen += [key.id for key in page.api_keys]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[:0:-1]
    everything = await served.call("ListApiKeys", pb.ListApiKeysRequest(include_inactive=True), metadata=metadata)
    assert [key.id for key in everything.api_keys] == made[::-1]


@pytest.mark.parametrize("rpc", ["CreateApiKey", "ListApiKeys", "RevokeApiKey"])
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.SERVICE, Role.READER])
async def test_keys_are_an_administrators_affair(rpc: str, role: Role, served: Served) -> None:
    requests: dict[str, Any] = {
        "CreateApiKey": pb.CreateApiKeyRequest(api_key=new_key()),
        "ListApiKeys": pb.ListApiKeysRequest(),
        "RevokeApiKey": pb.RevokeApiKeyRequest(api_key_id=encode(Prefix.API_KEY, uuid7())),
    }
    assert (await failure(served.call(rpc, requests[rpc], role, await served.firm()))).reason == "PERMISSION_DENIED"


async def test_the_administrators_key_is_kept_and_made_anew_when_it_no_longer_works(
    served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "keys" / "admin"
    first = await ensure_admin_key(served.db, KEYS.api_key_peppers, file)
    assert file.stat().st_mode & 0o077 == 0
    assert await ensure_admin_key(served.db, KEYS.api_key_peppers, file) == first
    listed = await served.stub.ListApiKeys(pb.ListApiKeysRequest(), metadata=bearer(first))
    [kept] = [key for key in listed.api_keys if key.display_name == "bootstrap"]
    await served.call("RevokeApiKey", pb.RevokeApiKeyRequest(api_key_id=kept.id))
    second = await ensure_admin_key(served.db, KEYS.api_key_peppers, file)
    assert second != first
    assert await create_admin_key(served.db, KEYS.api_key_peppers[0], "ops") not in (first, second)
    await served.stub.ListFirms(pb.ListFirmsRequest(), metadata=bearer(second))
