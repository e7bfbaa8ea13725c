"""The root secret and the keys derived from it."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MIN_SECRET_CHARS = 32


class SecretError(Exception):
    """The root secret cannot be used. The text says what to change and holds no secret."""


def development_secret(data_dir: Path) -> bytes:
    """The root secret of a development set-up: `secret_key` in the data folder, mode 600, made at the first use.

    Several processes may ask at once: whoever links its file first wins, and all read the same. Raises SecretError
    when the file is readable by others or too short.
    """
    path = data_dir / "secret_key"
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        draft = data_dir / f"secret_key.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(48) + "\n")
                file.flush()
                os.fsync(file.fileno())
            # Where another process was first, its secret is the one.
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    if path.stat().st_mode & 0o077:
        raise SecretError(f"{path} holds the root secret and must be readable by its owner only (chmod 600)")
    root = path.read_bytes().strip()
    if len(root) < MIN_SECRET_CHARS:
        raise SecretError(f"{path} holds fewer than {MIN_SECRET_CHARS} characters")
    return root


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What derives from the root secret by HKDF-SHA256: one 32-byte key per purpose, so that no key serves two."""

    root: bytes
    previous: tuple[bytes, ...] = ()

    def derive(self, purpose: str) -> bytes:
        """The current key of a purpose, e.g. `page-token`. Changing a purpose's name changes its key."""
        return _derive(self.root, purpose)

    def derive_all(self, purpose: str) -> tuple[bytes, ...]:
        """The current key first, then those of earlier root secrets: for verifying and decrypting."""
        return tuple(_derive(root, purpose) for root in (self.root, *self.previous))

    @property
    def api_key_peppers(self) -> tuple[bytes, ...]:
        """Peppers of API key hashes; new keys are hashed with the first."""
        return self.derive_all("api-key-pepper")

    @property
    def page_token(self) -> bytes:
        """Signs page tokens."""
        return self.derive("page-token")

    @property
    def encryption(self) -> dict[str, bytes]:
        """Keys of stored credentials by key id, the current one first. The id tells nothing about its key."""
        keys = self.derive_all("credential-encryption")
        return {_derive(key, "key-id").hex()[:8]: key for key in keys}


def _derive(root: bytes, purpose: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt=b"dunwell", info=f"dunwell/{purpose}/v1".encode()).derive(root)
