"""JSON web tokens: EdDSA or RS256, of one issuer, for our audience, valid for a quarter of an hour at most.

The issuer's public keys come from a JWKS file, read again when it changes: a rotation needs no restart. Claims beside
the registered ones: `role`, `firm` (`firm_…`; absent for ADMIN and SIDECAR), and optionally `person`.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jwt

from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Role
from dunwell_server.platform.logging import get_logger
from dunwell_server.rpc.auth import Principal, refused, role_binding_holds

log = get_logger(__name__)

ALGORITHMS: Final = ("EdDSA", "RS256")
MAX_LIFETIME: Final = 15 * 60
LEEWAY: Final = 10
_KEY_TYPES: Final = {"EdDSA": "OKP", "RS256": "RSA"}
_CHECK_FILE_EVERY: Final = 1.0
_CACHE_SIZE: Final = 10_000
_MIN_RSA_BITS: Final = 2048


class Jwks:
    """The public keys of a JWKS file, by key id."""

    def __init__(self, path: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        """Read the file. ValueError where it cannot be used; later bad versions are logged and the good one is kept."""
        self._path = path
        self._now = now
        self._stamp = self._file_stamp()
        self._next_check = now() + _CHECK_FILE_EVERY
        self._keys = self._read()
        self.generation = 0
        """Rises with each new version of the file."""

    def find(self, key_id: str, algorithm: str) -> jwt.PyJWK | None:
        """The key of that id, if it is one for the algorithm."""
        key = self._keys.get(key_id)
        return key if key is not None and key.key_type == _KEY_TYPES.get(algorithm) else None

    def refresh(self) -> None:
        """Read the file again if it changed; looks at most once a second."""
        if self._now() < self._next_check:
            return
        self._next_check = self._now() + _CHECK_FILE_EVERY
        try:
            stamp = self._file_stamp()
            if stamp == self._stamp:
                return
            self._keys, self._stamp = self._read(), stamp
            self.generation += 1
            log.info("JWKS read again", keys=len(self._keys))
        except (OSError, ValueError) as error:
            log.error("JWKS file cannot be used, keeping the earlier keys", error=str(error))

    def _file_stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, jwt.PyJWK]:
        try:
            keys = jwt.PyJWKSet.from_json(self._path.read_text(encoding="utf-8")).keys
        except (jwt.PyJWTError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{self._path.name} is not a JWKS file: {error}") from error
        result: dict[str, jwt.PyJWK] = {}
        for key in keys:
            if not key.key_id:
                raise ValueError(f"{self._path.name}: every key needs a kid")
            if key.key_type == "RSA" and key.key.key_size < _MIN_RSA_BITS:
                raise ValueError(f"{self._path.name}: RSA keys need at least {_MIN_RSA_BITS} bits")
            result[key.key_id] = key
        return result


class JwtVerifier:
    """Verifies tokens; remembers those it found good until they expire or the keys change."""

    def __init__(self, jwks: Jwks, issuer: str, audience: str, *, clock: Callable[[], float] = time.time) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._generation = jwks.generation
        self._good: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def verify(self, token: str) -> Principal:
        """The principal of a token. UNAUTHENTICATED; CREDENTIAL_EXPIRED for a good token of yesterday."""
        self._jwks.refresh()
        if self._generation != self._jwks.generation:
            self._good.clear()
            self._generation = self._jwks.generation
        digest = hashlib.sha256(token.encode()).digest()
        known = self._good.get(digest)
        if known is not None and self._clock() < known[0]:
            return known[1]
        expires, principal = self._verify(token)
        self._good[digest] = (expires, principal)
        while len(self._good) > _CACHE_SIZE:
            self._good.popitem(last=False)
        return principal

    def _verify(self, token: str) -> tuple[float, Principal]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            # The key's own type decides what the header may claim: no algorithm confusion.
            key = self._jwks.find(str(header.get("kid", "")), algorithm) if algorithm in ALGORITHMS else None
            if key is None or algorithm is None:
                raise refused()
            claims: dict[str, Any] = jwt.decode(
                token, key.key, algorithms=[algorithm], audience=self._audience, issuer=self._issuer, leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"], "verify_sub": True},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise DunwellError(Reason.CREDENTIAL_EXPIRED, "The token has expired.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise refused() from None
        return float(claims["exp"]) + LEEWAY, _principal(claims)


def _principal(claims: dict[str, Any]) -> Principal:
    if int(claims["exp"]) - int(claims["iat"]) > MAX_LIFETIME:
        raise refused(f"Tokens may be valid for {MAX_LIFETIME // 60} minutes at most.")
    subject, person, firm = claims["sub"], claims.get("person"), claims.get("firm")
    try:
        role = Role(str(claims.get("role")))
        firm_id = None if firm is None else ids.decode(ids.Prefix.FIRM, str(firm), "firm")
    except (ValueError, DunwellError):
        raise refused() from None
    if not subject or len(subject) > 128 or not role_binding_holds(role, firm_id):
        raise refused()
    if person is not None and not (isinstance(person, str) and 0 < len(person) <= 128 and person.isprintable()):
        raise refused()
    return Principal(f"jwt:{subject}", role, firm_id, "jwt", person=person)
