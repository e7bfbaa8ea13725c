"""Who calls: API keys and JWTs.

An API key is `dw_<test|live>_<key id>_<secret>`: the id finds the row, and the row holds HMAC-SHA256(pepper, secret).
Rows are cached for five seconds at most, which is how long a revoked key may still work. The answer to every bad
credential is the same, whether the key is unknown, revoked or its secret wrong; only expiry has its own reason.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Actor, Role, system_context
from dunwell_server.platform.database import Database

CACHE_SECONDS: Final = 5.0
_CACHE_SIZE: Final = 10_000
_MAX_LOOKUPS: Final = 4
_MAX_CREDENTIAL_CHARS: Final = 4096
_SECRET_BYTES: Final = 32
_MODES: Final = frozenset({"test", "live"})
_UNBOUND: Final = frozenset({Role.ADMIN, Role.SIDECAR})
CREDENTIAL_ROLES: Final = frozenset(Role) - {Role.SYSTEM}


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated credential. `firm_id` is None for those not bound to a firm."""

    id: str
    role: Role
    firm_id: UUID | None
    auth_method: str
    may_name_actor: bool = False
    person: str | None = None
    """The person a signed token itself names."""

    def actor(self, named: str | None) -> Actor:
        """The actor of a call; `named` is what the caller put into `dunwell-actor`, believed of scoped keys only."""
        person = named if named and self.may_name_actor else self.person
        return Actor(self.id, self.role, self.auth_method, person)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """What the database knows of an API key."""

    id: UUID
    firm_id: UUID | None
    role: Role
    secret_hash: bytes
    may_name_actor: bool
    expire_time: datetime | None
    revoke_time: datetime | None


class KeyStore(Protocol):
    """Where API keys are looked up."""

    async def load(self, key_id: UUID) -> KeyRow | None:
        """The key's row, also when it is revoked; None for an unknown id."""
        ...


_SELECT_KEY = """
SELECT id, firm_id, role, secret_hash, may_name_actor, expire_time, revoke_time
FROM control.api_key WHERE id = %(id)s
"""


class DatabaseKeyStore:
    """API keys of `control.api_key`. A few look-ups at a time: a flood of made-up ids must not take the whole pool."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gate = asyncio.Semaphore(_MAX_LOOKUPS)

    async def load(self, key_id: UUID) -> KeyRow | None:
        """One indexed read in a transaction of its own."""
        async with self._gate, self._database.transaction(system_context(None, "authenticate"), write=False) as uow:
            row = await uow.fetch_one(_SELECT_KEY, {"id": key_id})
        return None if row is None else KeyRow(**{**row, "role": Role(row["role"])})


@dataclass(frozen=True, slots=True, repr=False)
class MintedKey:
    """A new API key: `text` is shown once and stored nowhere; the rest is the row's."""

    text: str
    id: UUID
    secret_hash: bytes


def mint_key(pepper: bytes, *, live: bool) -> MintedKey:
    """Make a key with 256 random bits. `pepper` is `Keys.api_key_peppers[0]`; `live` follows the firm's mode."""
    key_id = ids.uuid7()
    secret = base64.b32encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=").lower()
    public = ids.encode(ids.Prefix.API_KEY, key_id).rpartition("_")[2]
    text = f"dw_{'live' if live else 'test'}_{public}_{secret}"
    return MintedKey(text, key_id, hash_secret(pepper, secret))


def hash_secret(pepper: bytes, secret: str) -> bytes:
    """HMAC-SHA256 of a key's secret: 256-bit secrets need no slow hash, and the pepper is not in the database."""
    return hmac.digest(pepper, secret.encode(), "sha256")


def refused(message: str = "The credential is missing or not valid.") -> DunwellError:
    """The one answer to every bad credential."""
    return DunwellError(Reason.UNAUTHENTICATED, message)


class ApiKeys:
    """Verifies API keys, with a small cache of rows."""

    def __init__(
        self, store: KeyStore, peppers: tuple[bytes, ...], *, now: Callable[[], float] = time.monotonic,
        cache_seconds: float = CACHE_SECONDS,
    ) -> None:  # fmt: skip
        self._store = store
        self._peppers = peppers
        self._now = now
        self._seconds = cache_seconds
        self._rows: OrderedDict[UUID, tuple[float, KeyRow | None, Principal | None]] = OrderedDict()
        self._good: dict[str, tuple[float, Principal]] = {}
        self._loading: dict[UUID, asyncio.Future[None]] = {}

    def cached(self, token: str) -> Principal | None:
        """The principal where the key's row is in the cache; None where it has to be loaded. Raises like `verify`."""
        # A key found good stays so until its row is due to be read again. Finding it by the hash of the whole text
        # tells nobody how much of a guess was right: Python's string hash is keyed.
        good = self._good.get(token)
        if good is not None and self._now() < good[0]:
            return good[1]
        key_id, secret = _parse(token)
        principal = self._check(key_id, secret)
        if principal is not None:
            if len(self._good) >= _CACHE_SIZE:
                self._good.clear()
            self._good[token] = (self._good_until(key_id), principal)
        return principal

    def _good_until(self, key_id: UUID) -> float:
        until, row, _ = self._rows[key_id]
        if row is None or row.expire_time is None:
            return until
        return min(until, self._now() + (row.expire_time - datetime.now(UTC)).total_seconds())

    async def verify(self, token: str) -> Principal:
        """The principal of a key. UNAUTHENTICATED, CREDENTIAL_EXPIRED; DATABASE_UNAVAILABLE when it cannot be told."""
        key_id, secret = _parse(token)
        while (principal := self._check(key_id, secret)) is None:
            await self._load(key_id)
        return principal

    def _check(self, key_id: UUID, secret: str) -> Principal | None:
        entry = self._rows.get(key_id)
        if entry is None or entry[0] <= self._now():
            return None
        _, row, principal = entry
        # An unknown id costs the same hash as a known one.
        expected = b"\0" * 32 if row is None else row.secret_hash
        matches = False
        for pepper in self._peppers:
            matches |= hmac.compare_digest(hash_secret(pepper, secret), expected)
        if not matches or row is None or principal is None or row.revoke_time is not None:
            raise refused()
        if row.expire_time is not None and row.expire_time <= datetime.now(UTC):
            raise DunwellError(Reason.CREDENTIAL_EXPIRED, "The API key has expired.")
        return principal

    async def _load(self, key_id: UUID) -> None:
        """Load the row once, however many calls wait for it."""
        waiting = self._loading.get(key_id)
        if waiting is not None:
            await asyncio.shield(waiting)
            return
        future = self._loading[key_id] = asyncio.get_running_loop().create_future()
        # Whoever waits gets the same failure; where nobody waits it is not an error that it goes unread.
        future.add_done_callback(lambda done: done.exception())
        try:
            row = await self._store.load(key_id)
        except Exception as error:
            future.set_exception(error)
            raise
        else:
            self._rows[key_id] = (self._now() + self._seconds, row, None if row is None else _principal(row))
            self._rows.move_to_end(key_id)
            while len(self._rows) > _CACHE_SIZE:
                self._rows.popitem(last=False)
        finally:
            del self._loading[key_id]
            if not future.done():  # also where this caller left: the next one loads
                future.set_result(None)


def _principal(row: KeyRow) -> Principal:
    name = ids.encode(ids.Prefix.API_KEY, row.id)
    return Principal(name, row.role, row.firm_id, "api_key", row.may_name_actor)


def _parse(token: str) -> tuple[UUID, str]:
    parts = token.split("_", 3)
    if len(parts) != 4 or parts[0] != "dw" or parts[1] not in _MODES or not parts[3]:
        raise refused()
    try:
        key_id = ids.decode(ids.Prefix.API_KEY, f"{ids.Prefix.API_KEY.value}_{parts[2]}", "authorization")
    except DunwellError:
        raise refused() from None
    return key_id, parts[3]


class TokenVerifier(Protocol):
    """Verifies JWTs; see `dunwell_server.rpc.jwt`."""

    def verify(self, token: str) -> Principal:
        """The principal of a token. UNAUTHENTICATED or CREDENTIAL_EXPIRED."""
        ...


class Authenticator:
    """From the call's metadata to a principal."""

    def __init__(self, keys: ApiKeys, tokens: TokenVerifier | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    def known(self, metadata: Mapping[str, Any]) -> Principal | None:
        """The principal where it can be told without waiting; None where `authenticate` has to be awaited."""
        token = _bearer(metadata)
        return self._keys.cached(token) if token.startswith("dw_") else self._token(token)

    async def authenticate(self, metadata: Mapping[str, Any]) -> Principal:
        """The principal behind `authorization: Bearer …`. UNAUTHENTICATED where it is missing or bad."""
        token = _bearer(metadata)
        return await self._keys.verify(token) if token.startswith("dw_") else self._token(token)

    def _token(self, token: str) -> Principal:
        if self._tokens is None:
            raise refused()
        return self._tokens.verify(token)


def _bearer(metadata: Mapping[str, Any]) -> str:
    value = metadata.get("authorization")
    if not isinstance(value, str) or len(value) > _MAX_CREDENTIAL_CHARS or value[:7].lower() != "bearer ":
        raise refused("Send `authorization: Bearer <API key or JWT>`.")
    return value[7:].strip()


def resolve_firm(principal: Principal, named: str | None) -> UUID | None:
    """The firm of a call: the credential's own, or the one an unbound credential names in `dunwell-firm`.

    PERMISSION_DENIED where a bound credential names another firm, or the sidecar any; INVALID_ID for a malformed name.
    """
    if named is None:
        return principal.firm_id
    firm_id = ids.decode(ids.Prefix.FIRM, named, "dunwell-firm")
    if principal.role is Role.ADMIN or firm_id == principal.firm_id:
        return firm_id
    raise DunwellError(Reason.PERMISSION_DENIED, "This credential may not act for the firm named in dunwell-firm.")


def role_binding_holds(role: Role, firm_id: UUID | None) -> bool:
    """ADMIN and SIDECAR are bound to no firm, every other role to one. SYSTEM is nobody's credential."""
    return role in CREDENTIAL_ROLES and (firm_id is None) == (role in _UNBOUND)
