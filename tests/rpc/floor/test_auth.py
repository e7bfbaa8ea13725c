"""Credentials, roles, firms and actors, through a real channel."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import StatusCode

from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Role
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.jwt import Jwks, JwtVerifier
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import FIRM, OTHER_FIRM, PEPPER, KeyRing, Served, failure, serve

FIRM_NAME = ids.encode(ids.Prefix.FIRM, FIRM)
OTHER_NAME = ids.encode(ids.Prefix.FIRM, OTHER_FIRM)


def bearer(text: str, **extra: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call."""
    return (("authorization", f"Bearer {text}"), *((name.replace("_", "-"), value) for name, value in extra.items()))


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Bearer x", "Basic dXNlcjpwYXNz", "Bearer dw_test_x_y", "Bearer dw_test__",
        "Bearer dw_live_01h455vb4pex5vsknk084sn02q_secret", "Bearer " + "x" * 5000, "Bearer eyJhbGciOiJub25lIn0.e30.",
    ],
)  # fmt: skip
async def test_bad_credentials(served: Served, header: str | None) -> None:
    metadata = () if header is None else (("authorization", header),)
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
    assert (failed.code, failed.reason) == (StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    failed = await failure(served.admin.WatchRun(requests.watch_run(), metadata=metadata))
    assert failed.code is StatusCode.UNAUTHENTICATED
    assert not served.script.seen


async def test_wrong_secret_of_a_known_key(served: Served) -> None:
    key = served.keys.add(Role.READER)
    last = "a" if key.text[-1] != "a" else "b"
    await served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text))
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text[:-1] + last)))
    assert failed.reason == "UNAUTHENTICATED"


async def test_another_pepper_does_not_verify_and_an_earlier_one_does() -> None:
    ring = KeyRing()
    key = ring.add(Role.READER, pepper=b"the earlier pepper")
    assert (await ApiKeys(ring, (PEPPER, b"the earlier pepper")).verify(key.text)).role is Role.READER
    with pytest.raises(DunwellError) as caught:
        await ApiKeys(ring, (PEPPER,)).verify(key.text)
    assert caught.value.reason is Reason.UNAUTHENTICATED


async def test_revocation_takes_effect_within_the_cache_time(tmp_path: Path) -> None:
    async with serve(tmp_path, cache_seconds=0.2) as served:
        key = served.keys.add(Role.READER)
        await served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text))
        served.keys.rows[key.id] = replace(served.keys.rows[key.id], revoke_time=datetime.now(UTC))
        await asyncio.sleep(0.25)
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text)))
    assert failed.reason == "UNAUTHENTICATED"


async def test_expired_key_also_while_cached(served: Served) -> None:
    key = served.keys.add(Role.READER, expire_time=datetime.now(UTC) + timedelta(seconds=2))
    await served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text))
    await asyncio.sleep(2.1)
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(key.text)))
    assert (failed.code, failed.reason) == (StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED")


async def test_one_lookup_serves_many_calls(served: Served) -> None:
    metadata = bearer(served.keys.add(Role.READER).text)
    await asyncio.gather(*(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata) for _ in range(30)))
    assert served.keys.lookups == 1


async def test_database_away_is_unavailable_and_recovers(served: Served) -> None:
    metadata = bearer(served.keys.add(Role.READER).text)
    served.keys.error = DunwellError(Reason.DATABASE_UNAVAILABLE, "The database does not answer.", retry_after=1.0)
    results = await asyncio.gather(
        *(failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)) for _ in range(5))
    )
    assert {failed.code for failed in results} == {StatusCode.UNAVAILABLE}
    served.keys.error = None
    await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)


async def test_roles_come_from_the_contract(served: Served) -> None:
    request = requests.create_client()
    failed = await failure(served.billing.CreateClient(request, metadata=served.metadata(Role.READER)))
    assert (failed.code, failed.reason) == (StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert failed.metadata["role"] == "READER"
    assert "SERVICE" in failed.metadata["allowed"].split(",")
    failed = await failure(served.admin.WatchRun(requests.watch_run(), metadata=served.metadata(Role.SIDECAR)))
    assert failed.code is StatusCode.PERMISSION_DENIED
    assert not served.script.seen


async def test_permission_is_decided_before_the_request_is_read(served: Served) -> None:
    channel: Any = served.channel
    call = channel.unary_unary("/dunwell.v1.BillingService/CreateClient")
    failed = await failure(call(b"\xff\xff", metadata=served.metadata(Role.READER)))
    assert failed.code is StatusCode.PERMISSION_DENIED


async def test_firm_comes_from_the_credential(served: Served) -> None:
    await served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata(Role.READER))
    await served.billing.GetInvoice(
        requests.get_invoice(), metadata=served.metadata(Role.READER, dunwell_firm=FIRM_NAME)
    )
    assert [context.firm_id for context in served.script.seen] == [FIRM, FIRM]
    metadata = served.metadata(Role.READER, dunwell_firm=OTHER_NAME)
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
    assert failed.code is StatusCode.PERMISSION_DENIED


async def test_an_admin_names_the_firm(served: Served) -> None:
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata(Role.ADMIN)))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "FIRM_REQUIRED")
    metadata = served.metadata(Role.ADMIN, dunwell_firm=OTHER_NAME)
    await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
    await served.admin.GetFirm(requests.get_firm(), metadata=served.metadata(Role.ADMIN))
    assert [context.firm_id for context in served.script.seen] == [OTHER_FIRM, None]
    metadata = served.metadata(Role.ADMIN, dunwell_firm="firm_1")
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
    assert failed.reason == "INVALID_ID"


async def test_actor_is_believed_of_scoped_keys_only(served: Served) -> None:
    scoped = served.keys.add(Role.OPERATOR, may_name_actor=True)
    plain = served.keys.add(Role.OPERATOR)
    for key in (scoped, plain):
        metadata = bearer(key.text, dunwell_actor="ada@example.com")
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
    first, second = served.script.seen
    assert (first.actor.person, first.actor.label) == ("ada@example.com", "ada@example.com")
    assert second.actor.person is None
    assert second.actor.label == ids.encode(ids.Prefix.API_KEY, plain.id)
    failed = await failure(
        served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(scoped.text, dunwell_actor="x" * 200))
    )
    assert failed.reason == "FIELD_INVALID"


# JWT

Claims = dict[str, Any]


class FromNow(int):
    """Seconds from when the token is made: all tests together take longer than a token lives."""

    def at(self, now: int) -> int | str:
        """The claim of a token that is made at `now`."""
        return now + self


class WrittenOut(FromNow):
    """The same as a text, which some issuers write."""

    def at(self, now: int) -> str:
        return str(now + self)


def claims(**changes: Any) -> Claims:
    """Good claims."""
    values = {
        "iss": "https://issuer.example", "aud": "dunwell", "sub": "ada", "iat": FromNow(), "exp": FromNow(600), "role": "OPERATOR",
        "firm": FIRM_NAME, **changes,
    }  # fmt: skip
    now = int(time.time())
    return {name: value.at(now) if isinstance(value, FromNow) else value for name, value in values.items()}


def public_jwk(algorithm: Any, key: Any, kid: str) -> dict[str, Any]:
    """The public key as a JWKS entry."""
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}


ED = Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
STRANGER = Ed25519PrivateKey.generate()


def write_jwks(path: Path, *keys: dict[str, Any]) -> None:
    """Replace the file at once, as a careful operator does."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"keys": list(keys)}))
    os.replace(draft, path)


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    """A JWKS file with an Ed25519 and an RSA key."""
    path = tmp_path / "jwks.json"
    write_jwks(
        path, public_jwk(jwt.algorithms.OKPAlgorithm, ED, "ed"), public_jwk(jwt.algorithms.RSAAlgorithm, RSA, "rsa")
    )
    return path


def verifier(path: Path, now: Callable[[], float] = time.monotonic) -> JwtVerifier:
    """A verifier of the test's issuer."""
    return JwtVerifier(Jwks(path, now=now), "https://issuer.example", "dunwell")


def token(changes: Claims | None = None, *, key: Any = ED, alg: str = "EdDSA", kid: str = "ed") -> str:
    """A signed token."""
    return jwt.encode(claims(**(changes or {})), key, algorithm=alg, headers={"kid": kid})


def reason_of(path: Path, text: str) -> Reason | None:
    """Why a token is refused; None where it is accepted."""
    try:
        verifier(path).verify(text)
    except DunwellError as error:
        return error.reason
    return None


async def test_jwt_through_the_channel(tmp_path: Path, jwks: Path) -> None:
    authenticator = Authenticator(ApiKeys(KeyRing(), (PEPPER,)), verifier(jwks))
    async with serve(tmp_path, authenticator=authenticator) as served:
        metadata = bearer(token({"person": "Ada Byron"}))
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
        metadata = bearer(token(key=RSA, alg="RS256", kid="rsa"), dunwell_actor="somebody else")
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=bearer(token(key=STRANGER))))
    first, second = served.script.seen
    assert (first.actor.id, first.actor.person, first.firm_id) == ("jwt:ada", "Ada Byron", FIRM)
    assert second.actor.person is None
    assert failed.reason == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"exp": FromNow(901)}, Reason.UNAUTHENTICATED),
        ({"iat": FromNow(-700), "exp": FromNow(-60)}, Reason.CREDENTIAL_EXPIRED),
        ({"iat": FromNow(300)}, Reason.UNAUTHENTICATED),
        ({"iss": "https://other.example"}, Reason.UNAUTHENTICATED),
        ({"aud": "other"}, Reason.UNAUTHENTICATED),
        ({"role": "SYSTEM", "firm": None}, Reason.UNAUTHENTICATED),
        ({"role": "KING"}, Reason.UNAUTHENTICATED),
        ({"role": "OPERATOR", "firm": None}, Reason.UNAUTHENTICATED),
        ({"role": "ADMIN"}, Reason.UNAUTHENTICATED),
        ({"role": "ADMIN", "firm": None}, None),
        ({"firm": "firm_1"}, Reason.UNAUTHENTICATED),
        ({"sub": ""}, Reason.UNAUTHENTICATED),
        ({"sub": 7}, Reason.UNAUTHENTICATED),
        ({"person": "a\nb"}, Reason.UNAUTHENTICATED),
        ({"exp": WrittenOut(600)}, None),
        ({"exp": "soon"}, Reason.UNAUTHENTICATED),
    ],
)
def test_jwt_claims(jwks: Path, changes: Claims, expected: Reason | None) -> None:
    assert reason_of(jwks, token(changes)) == expected


@pytest.mark.parametrize("missing", ["exp", "iat", "iss", "aud", "sub", "role"])
def test_jwt_without_a_claim(jwks: Path, missing: str) -> None:
    kept = {name: value for name, value in claims().items() if name != missing}
    text = jwt.encode(kept, ED, algorithm="EdDSA", headers={"kid": "ed"})
    assert reason_of(jwks, text) is Reason.UNAUTHENTICATED


def tampered(text: str) -> str:
    """The token with one bit of its signature turned."""
    place = len(text) - 10
    return text[:place] + ("B" if text[place] == "A" else "A") + text[place + 1 :]


def test_jwt_algorithms(jwks: Path) -> None:
    assert reason_of(jwks, token(key=RSA, alg="RS256", kid="rsa")) is None
    refused = [
        jwt.encode(claims(), "", algorithm="none", headers={"kid": "ed"}),
        token(key="a shared secret of enough length for HMAC", alg="HS256", kid="rsa"),
        token(key=ec.generate_private_key(ec.SECP256R1()), alg="ES256", kid="ed"),
        token(key=RSA, alg="RS512", kid="rsa"),
        token(key=RSA, alg="RS256", kid="ed"),
        token(kid="rsa"),
        token(kid="unknown"),
        jwt.encode(claims(), ED, algorithm="EdDSA"),
        tampered(token()),
        "a.b.c",
    ]
    assert [reason_of(jwks, text) for text in refused] == [Reason.UNAUTHENTICATED] * len(refused)


def test_jwks_rotation_and_a_broken_file(jwks: Path) -> None:
    clock = [0.0]
    verify = verifier(jwks, now=lambda: clock[0]).verify
    assert verify(token()).id == "jwt:ada"
    write_jwks(jwks, public_jwk(jwt.algorithms.OKPAlgorithm, STRANGER, "new"))
    clock[0] += 2
    with pytest.raises(DunwellError):
        verify(token())  # known to be good under the old file
    assert verify(token(key=STRANGER, kid="new")).id == "jwt:ada"
    jwks.write_text("{}")
    clock[0] += 2
    assert verify(token(key=STRANGER, kid="new")).id == "jwt:ada"
    with pytest.raises(ValueError, match=r"jwks\.json"):
        Jwks(jwks)


def test_weak_rsa_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    weak = rsa.generate_private_key(65537, 1024)
    write_jwks(path, public_jwk(jwt.algorithms.RSAAlgorithm, weak, "weak"))
    with pytest.raises(ValueError, match="2048"):
        Jwks(path)
