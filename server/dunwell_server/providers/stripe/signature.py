"""Stripe's webhook signatures: ``Stripe-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`` over ``<t>.<body>``, HMAC-SHA256.

Checked over the raw bytes and in constant time, against every secret and every ``v1``; other schemes (``v0``) do not
count. A timestamp may be at most five minutes from now, either way.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from dunwell_server.providers.abilities import SignatureRefused

HEADER: Final = "stripe-signature"
TOLERANCE_SECONDS: Final = 300

NO_SECRET: Final = "no secret"
MISSING: Final = "missing signature"
MALFORMED: Final = "malformed signature"
MISMATCH: Final = "no matching signature"
TOO_OLD: Final = "timestamp too old"
IN_FUTURE: Final = "timestamp in the future"

_MAX_HEADER: Final = 4096
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_SIGNATURE: Final = re.compile(r"[0-9a-fA-F]{64}")


def check_signature(
    secrets: Sequence[str],
    body: bytes,
    header: str | None,
    now: datetime,
    *,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> datetime:
    """Returns when the body was signed. Raises SignatureRefused, whose ``why`` is one of this module's words."""
    live = [secret for secret in secrets if secret.strip()]
    if not live:
        raise SignatureRefused(NO_SECRET)
    if header is None or not header.strip():
        raise SignatureRefused(MISSING)
    stamp, signatures = _parts(header)
    signed = stamp.encode() + b"." + body
    matched = False
    for secret in live:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest().encode()
        for signature in signatures:  # No early end: the time tells nothing about which secret or signature matched.
            matched |= hmac.compare_digest(expected, signature)
    if not matched:
        raise SignatureRefused(MISMATCH)
    age = now.timestamp() - int(stamp)
    if age > tolerance_seconds:
        raise SignatureRefused(TOO_OLD)
    if age < -tolerance_seconds:
        raise SignatureRefused(IN_FUTURE)
    return datetime.fromtimestamp(int(stamp), now.tzinfo)


def _parts(header: str) -> tuple[str, list[bytes]]:
    if len(header) > _MAX_HEADER:
        raise SignatureRefused(MALFORMED)
    pairs = [part.strip().partition("=") for part in header.split(",")]
    stamps = [value for name, _, value in pairs if name == "t"]
    signatures = [
        value.lower().encode() for name, _, value in pairs if name == "v1" and _SIGNATURE.fullmatch(value) is not None
    ]
    if len(set(stamps)) != 1 or _TIMESTAMP.fullmatch(stamps[0]) is None or not signatures:
        raise SignatureRefused(MALFORMED)
    return stamps[0], signatures
