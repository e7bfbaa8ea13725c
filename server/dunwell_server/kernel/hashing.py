"""Unambiguous digests of several values: every part is tagged with its type and prefixed with its length."""

from __future__ import annotations

from hashlib import sha256
from typing import Final
from uuid import UUID

_UUID_HEAD: Final = b"u" + (16).to_bytes(8, "big")


def digest_parts(parts: tuple[str | int | UUID | bytes, ...]) -> bytes:
    """SHA-256 (32 bytes) of the parts. No two different sequences of parts share an encoding; "1" and 1 differ."""
    pieces: list[bytes] = []
    for part in parts:
        if isinstance(part, UUID):
            pieces += _UUID_HEAD, part.int.to_bytes(16, "big")
            continue
        if isinstance(part, str):
            tag, raw = b"s", part.encode()
        elif isinstance(part, bytes):
            tag, raw = b"b", part
        elif type(part) is int:
            tag, raw = b"i", b"%d" % part
        else:
            raise TypeError(f"cannot digest a {type(part).__name__}")
        pieces += tag, len(raw).to_bytes(8, "big"), raw
    return sha256(b"".join(pieces)).digest()
