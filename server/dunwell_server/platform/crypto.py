"""Encryption of the secrets that have to be read again: credentials of provider accounts.

AES-256-GCM. A sealed secret is bound to its owner (the associated data), so that copying it into another firm's row makes it
unreadable. Keys derive from the installation's root secret; every row names the key it was sealed with, so that a root secret can
be replaced while older rows stay readable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Final, NoReturn
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dunwell_server.platform.keys import Keys

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32


class VaultError(Exception):
    """A sealed secret cannot be opened: unknown key, another owner, or changed bytes. The text holds nothing of it."""


class Vault:
    """Seals dictionaries of secrets. Showing the vault shows key ids only; it cannot be pickled."""

    __slots__ = ("_ciphers", "_newest")

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """`keys` are 32-byte keys by id, the newest first: it seals, all open. ValueError for none or one of another length."""
        if not keys or any(len(key) != _KEY_BYTES for key in keys.values()):
            raise ValueError("a vault needs one or more keys of 32 bytes")
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._newest = next(iter(keys))

    @classmethod
    def of(cls, keys: Keys) -> Vault:
        """The installation's vault."""
        return cls(keys.encryption)

    @property
    def newest_key_id(self) -> str:
        """The id of the key that seals now; rows with another one are due for sealing anew."""
        return self._newest

    def encrypt(self, secrets: Mapping[str, str], aad: bytes) -> tuple[bytes, str]:
        """The sealed form and the id of its key. `aad` names the owner and must be given again to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = json.dumps(dict(secrets), separators=(",", ":"), sort_keys=True).encode()
        return _VERSION + nonce + self._ciphers[self._newest].encrypt(nonce, plain, _VERSION + aad), self._newest

    def decrypt(self, sealed: bytes, key_id: str, aad: bytes) -> dict[str, str]:
        """The secrets of `encrypt`. Raises VaultError."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise VaultError(f"the key {key_id!r} of a sealed secret is not configured")
        if sealed[:1] != _VERSION or len(sealed) < 1 + _NONCE_BYTES + 16:
            raise VaultError("a sealed secret has an unknown form")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            plain = cipher.decrypt(nonce, body, _VERSION + aad)
        except InvalidTag:
            # Without the cause: its frame holds the bytes.
            raise VaultError("a sealed secret is not its owner's, or was changed") from None
        secrets: dict[str, str] = json.loads(plain)
        return secrets

    def __repr__(self) -> str:
        return f"Vault(keys={', '.join(self._ciphers)}: hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault is not pickled")


def account_aad(firm_id: UUID | None, provider: str) -> bytes:
    """What a provider account's credentials are bound to: its firm (None: the platform) and provider."""
    return f"provider-account|{firm_id.hex if firm_id else 'platform'}|{provider}".encode()
