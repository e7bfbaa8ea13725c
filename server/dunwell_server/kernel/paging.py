"""Keyset pages: the size of a page, and the opaque signed token that leads to the next.

A token holds the sort-key values of the last row shown and a hash of the filter it belongs to. It is signed, so that
nobody reaches rows by inventing keys, and bound to the filter, so that pages of two queries are never mixed.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.hashing import digest_parts

SortValue = None | bool | int | str | Decimal | date | datetime | UUID

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000

_VERSION: Final = 1
_SIGNATURE_BYTES: Final = 16
_MAX_TOKEN_CHARS: Final = 4096


def page_size(requested: int, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """Rows of a page: ``default`` for zero, at most ``maximum``. Raises FIELD_INVALID for a negative number."""
    if requested < 0:
        raise DunwellError(Reason.FIELD_INVALID, "page_size must not be negative", field="page_size")
    return min(requested or default, maximum)


def filter_hash(*parts: str | int | UUID | bytes) -> str:
    """A short hash of everything a page token is bound to: method, firm, filter, order."""
    return digest_parts(parts)[:12].hex()


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a page ended: the sort-key ``values`` of its last row, under the filter with this hash."""

    values: tuple[SortValue, ...]
    filter_hash: str

    def encode(self, key: bytes) -> str:
        """URL-safe text without padding, signed with ``key`` (HMAC-SHA256)."""
        values = [_VERSION, self.filter_hash, [_pack(value) for value in self.values]]
        payload = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        return _to_text(_sign(payload, key) + payload)

    @staticmethod
    def decode(text: str, key: bytes, filter_hash: str) -> PageToken:
        """Check and read a token.

        Raises PAGE_TOKEN_INVALID if it is not one of ours, PAGE_TOKEN_MISMATCH if it belongs to another filter.
        """
        payload = _verified_payload(text, key)
        try:
            version, bound_to, packed = json.loads(payload)
            if version != _VERSION:
                raise ValueError("another version")
            values = tuple(_unpack(tag, raw) for tag, raw in packed)
        except (ValueError, TypeError, KeyError, InvalidOperation) as error:
            raise _invalid() from error
        if bound_to != filter_hash:
            raise DunwellError(
                Reason.PAGE_TOKEN_MISMATCH,
                "page_token belongs to another query: keep filter and order unchanged between pages",
                field="page_token",
            )
        return PageToken(values, bound_to)


def _invalid() -> DunwellError:
    return DunwellError(Reason.PAGE_TOKEN_INVALID, "page_token was not issued by this service", field="page_token")


def _sign(payload: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"dunwell page token\0" + payload, "sha256")[:_SIGNATURE_BYTES]


def _to_text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _verified_payload(text: str, key: bytes) -> bytes:
    if len(text) > _MAX_TOKEN_CHARS:
        raise _invalid()
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (Base64Error, ValueError):
        raise _invalid() from None
    if _to_text(raw) != text:  # the decoder skips characters it does not know, and ignores spare bits
        raise _invalid()
    signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(payload, key)):
        raise _invalid()
    return payload


def _pack(value: SortValue) -> tuple[str, str | int | bool | None]:
    if value is None or isinstance(value, bool | str | int):
        return "v", value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        return "t", value.astimezone(UTC).isoformat()
    if isinstance(value, date):
        return "d", value.isoformat()
    if isinstance(value, Decimal):
        return "n", str(value)
    if isinstance(value, UUID):
        return "u", value.hex
    raise TypeError(f"a {type(value).__name__} cannot be a sort key")


def _unpack(tag: str, raw: str | int | bool | None) -> SortValue:
    if tag == "v":
        return raw
    text = str(raw)
    match tag:
        case "t":
            return datetime.fromisoformat(text)
        case "d":
            return date.fromisoformat(text)
        case "n":
            return Decimal(text)
        case "u":
            return UUID(hex=text)
    raise ValueError("unknown kind of sort value")
