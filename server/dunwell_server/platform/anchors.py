"""Anchors: what the audit chains' heads were, signed and kept outside the database.

A chain proves that nothing in its middle was changed; only an anchor proves that its end was not cut off, or the whole chain made
anew. One file per firm, one line per anchor, only ever appended to.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dunwell_server.kernel.hashing import digest_parts
from dunwell_server.platform.keys import Keys

PURPOSE: Final = "audit-anchor"
MAX_READ: Final = 1000
"""Anchors of a firm that a verification compares: the newest ones."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of one firm's chain at one moment (machine time)."""

    firm_id: UUID
    seq: int
    hash: bytes
    time: datetime

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return digest_parts(("audit anchor v1", self.firm_id, self.seq, self.hash, self.time.isoformat()))


@dataclass(frozen=True, slots=True)
class FirmAnchors:
    """A firm's newest anchors, oldest first, and how many lines of its file are not ours or were changed."""

    anchors: tuple[Anchor, ...]
    invalid_lines: int

    @property
    def last(self) -> Anchor | None:
        """The newest anchor; None where there is none."""
        return self.anchors[-1] if self.anchors else None


class AnchorStore:
    """The folder of anchor files. Every process that has the root secret can write and check them."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder = folder
        self._signer = Ed25519PrivateKey.from_private_bytes(keys.derive(PURPOSE))
        self._verifiers: tuple[Ed25519PublicKey, ...] = tuple(
            Ed25519PrivateKey.from_private_bytes(key).public_key() for key in keys.derive_all(PURPOSE)
        )

    def append(self, anchor: Anchor) -> None:
        """Add an anchor and make it durable. One write of one line: concurrent writers do not mix. OSError."""
        signature = self._signer.sign(anchor.signed_bytes)
        line = {
            "seq": anchor.seq,
            "hash": anchor.hash.hex(),
            "time": anchor.time.isoformat(),
            "signature": b64encode(signature).decode(),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path(anchor.firm_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(descriptor, (json.dumps(line, separators=(",", ":")) + "\n").encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, firm_id: UUID) -> FirmAnchors:
        """The firm's newest anchors whose signatures hold. Empty where the firm has no file."""
        try:
            with self._path(firm_id).open(encoding="ascii", errors="replace") as file:
                lines = deque(file, maxlen=MAX_READ)
        except FileNotFoundError:
            return FirmAnchors((), 0)
        anchors = [self._parse(firm_id, line) for line in lines]
        valid = tuple(anchor for anchor in anchors if anchor is not None)
        return FirmAnchors(valid, len(anchors) - len(valid))

    def _path(self, firm_id: UUID) -> Path:
        return self._folder / f"{firm_id}.jsonl"

    def _parse(self, firm_id: UUID, line: str) -> Anchor | None:
        try:
            data = json.loads(line)
            time = datetime.fromisoformat(data["time"])
            anchor = Anchor(firm_id, int(data["seq"]), bytes.fromhex(data["hash"]), time)
            signature = b64decode(data["signature"], validate=True)
        except (ValueError, KeyError, TypeError, Base64Error):
            return None
        return anchor if any(_holds(key, signature, anchor.signed_bytes) for key in self._verifiers) else None


def _holds(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
