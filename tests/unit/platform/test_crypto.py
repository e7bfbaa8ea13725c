"""The vault: what is sealed can be opened by its owner only, also after the root secret has changed."""

from __future__ import annotations

import pickle
import uuid

import pytest

from dunwell_server.platform.crypto import Vault, VaultError, account_aad
from dunwell_server.platform.keys import Keys

OLD, NEW = b"the first root secret, 32 characters", b"the second root secret, 32 characters"
SECRETS = {"api_key": "sk_test_canary_4711", "webhook_secret": "whsec_canary"}
AAD = account_aad(uuid.UUID(int=1), "sandbox")


def test_what_is_sealed_can_be_opened() -> None:
    vault = Vault.of(Keys(OLD))
    sealed, key_id = vault.encrypt(SECRETS, AAD)
    assert vault.decrypt(sealed, key_id, AAD) == SECRETS
    assert b"canary" not in sealed
    assert vault.encrypt(SECRETS, AAD)[0] != sealed, "every sealing has a nonce of its own"


def test_rotation_keeps_old_secrets_readable_and_seals_with_the_newest_key() -> None:
    sealed, old_id = Vault.of(Keys(OLD)).encrypt(SECRETS, AAD)
    rotated = Vault.of(Keys(NEW, (OLD,)))
    assert rotated.decrypt(sealed, old_id, AAD) == SECRETS
    resealed, new_id = rotated.encrypt(SECRETS, AAD)
    assert new_id == rotated.newest_key_id != old_id
    assert Vault.of(Keys(NEW)).decrypt(resealed, new_id, AAD) == SECRETS
    with pytest.raises(VaultError, match="not configured"):
        Vault.of(Keys(NEW)).decrypt(sealed, old_id, AAD)


@pytest.mark.parametrize(
    "aad",
    [account_aad(uuid.UUID(int=2), "sandbox"), account_aad(uuid.UUID(int=1), "stripe"), account_aad(None, "sandbox")],
)
def test_a_secret_moved_to_another_owner_cannot_be_opened(aad: bytes) -> None:
    vault = Vault.of(Keys(OLD))
    sealed, key_id = vault.encrypt(SECRETS, AAD)
    with pytest.raises(VaultError, match="owner"):
        vault.decrypt(sealed, key_id, aad)


def test_every_changed_byte_is_noticed() -> None:
    vault = Vault.of(Keys(OLD))
    sealed, key_id = vault.encrypt(SECRETS, AAD)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(VaultError):
            vault.decrypt(bytes(changed), key_id, AAD)
    with pytest.raises(VaultError):
        vault.decrypt(sealed[:20], key_id, AAD)


def test_the_vault_shows_and_gives_away_nothing() -> None:
    keys = Keys(OLD)
    vault = Vault.of(keys)
    [key] = keys.encryption.values()
    assert key.hex() not in repr(vault)
    assert repr(key) not in repr(vault)
    with pytest.raises(TypeError):
        pickle.dumps(vault)


@pytest.mark.parametrize("keys", [{}, {"short": b"16 bytes, not 32"}])
def test_a_vault_needs_proper_keys(keys: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(keys)
