"""Settings: read from the environment, refused where they cannot be meant, secret where they are secrets."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dunwell_server.config import Settings, describe_settings, is_loopback
from dunwell_server.platform.keys import SecretError, development_secret
from dunwell_server.sidecar_config import SidecarSettings

ROOT = "a root secret that is long enough for this"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine, no .env file."""
    for row in describe_settings():
        monkeypatch.delenv(row.variable, raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().port, Settings().host, Settings().database_url) == (50051, "127.0.0.1", None)
    monkeypatch.setenv("DUNWELL_PORT", "7")
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@db/x")
    monkeypatch.setenv("DUNWELL_LOG_LEVELS", "dunwell_server.rpc=debug, psycopg=WARNING")
    monkeypatch.setenv("DUNWELL_PREVIOUS_SECRET_KEYS", "one,two")
    monkeypatch.setenv("DUNWELL_JOBS", "")
    settings = Settings()
    assert settings.port == 7
    assert settings.jobs == 1  # an empty variable counts as not set
    assert settings.log_levels == {"dunwell_server.rpc": "DEBUG", "psycopg": "WARNING"}
    assert [secret.get_secret_value() for secret in settings.previous_secret_keys] == ["one", "two"]
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())


@pytest.mark.parametrize(
    "values",
    [
        {"DUNWELL_PORT": "70000"}, {"DUNWELL_WORKERS": "0"}, {"DUNWELL_LOG_LEVEL": "LOUD"}, {"DUNWELL_LOG_LEVELS": "rpc"},
        {"DUNWELL_SECRET_KEY": "short"}, {"DUNWELL_TLS_CERT_FILE": "x.pem"}, {"DUNWELL_JWT_ISSUER": "x"},
        {"DUNWELL_TLS_CLIENT_CA_FILE": "ca.pem"}, {"DUNWELL_ENVIRONMENT": "production"},
        {"DUNWELL_ENVIRONMENT": "production", "DUNWELL_SECRET_KEY": ROOT}, {"DUNWELL_SHUTDOWN_GRACE": "60"},
        {"STRIPE_SECRET_KEY": "pk_test_short"}, {"STRIPE_WEBHOOK_SECRET": "whsec_short"}, {"STRIPE_PUBLISHABLE_KEY": "pk_test_1"},
        {"STRIPE_SECRET_KEY": "sk_live_short", "STRIPE_PUBLISHABLE_KEY": "pk_test_1"}, {"DUNWELL_RETURN_URL": "javascript:short"},
        {"DUNWELL_SIDECAR_SERVER": "short"}, {"DUNWELL_SIDECAR_TLS_KEY_FILE": "x"}, {"DUNWELL_SIDECAR_CLIENT_CERT_FILE": "x"},
        {"DUNWELL_SIDECAR_SERVER_TLS": "maybe"}, {"DUNWELL_SIDECAR_DEADLINE": "0"}, {"DUNWELL_SIDECAR_MAX_CONCURRENT": "0"},
    ],
)  # fmt: skip
def test_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "mode"),
    [("sk_test_1", "TEST"), ("rk_test_1", "TEST"), ("sk_live_1", "LIVE"), ("rk_live_1", "LIVE"), ("", None)],
)
def test_stripes_key_tells_its_mode(monkeypatch: pytest.MonkeyPatch, key: str, mode: str | None) -> None:
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    settings = Settings()
    assert settings.stripe_mode == mode
    assert not key or key not in repr(settings)


def test_the_sidecar_has_its_part_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUNWELL_SIDECAR_PORT", "7071")
    monkeypatch.setenv("DUNWELL_SIDECAR_PROXIES", "10.0.0.0/8, 192.0.2.1")
    monkeypatch.setenv(
        "DUNWELL_ENVIRONMENT", "production"
    )  # where the service needs secrets and a database, and it does not
    alone = SidecarSettings()
    assert (alone.sidecar_port, alone.sidecar_proxies) == (7071, ("10.0.0.0/8", "192.0.2.1"))
    assert {
        name for name in SidecarSettings.model_fields if "database" in name or "stripe" in name or "secret" in name
    } == set()
    monkeypatch.delenv("DUNWELL_ENVIRONMENT")
    assert Settings().sidecar_port == 7071
    assert Settings().makes_sidecar_key
    assert not Settings(enable_sidecar=False).makes_sidecar_key
    assert not Settings(sidecar_key_file=Path("key")).makes_sidecar_key


def test_every_setting_is_described_once() -> None:
    rows = describe_settings()
    names = [row.variable for row in rows]
    assert len(set(names)) == len(names) == len(Settings.model_fields)
    secrets = {row.variable for row in rows if row.secret}
    assert {"DATABASE_URL", "DUNWELL_OWNER_DATABASE_URL", "DUNWELL_SECRET_KEY"} <= secrets
    assert all(row.default == "" for row in rows if row.secret)


def test_development_makes_its_secret_once(tmp_path: Path) -> None:
    first = development_secret(tmp_path / "data")
    assert development_secret(tmp_path / "data") == first
    path = tmp_path / "data" / "secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "data") == ["secret_key"]
    path.chmod(0o640)
    with pytest.raises(SecretError, match="chmod 600"):
        development_secret(tmp_path / "data")
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(SecretError, match="fewer"):
        development_secret(tmp_path / "data")


def test_keys_differ_by_purpose_and_rotate() -> None:
    def keys(secret: str, *previous: str) -> Any:
        values: dict[str, Any] = {"secret_key": secret, "previous_secret_keys": previous}
        return Settings(**values).keys

    now = keys(ROOT, "the earlier root secret, long enough too")
    before = keys("the earlier root secret, long enough too")
    derived = {now.derive("a"), now.derive("b"), now.page_token, now.api_key_peppers[0], *now.encryption.values()}
    assert len(derived) == 6
    assert now.api_key_peppers[1] == before.api_key_peppers[0]
    assert list(now.encryption)[1] == next(iter(before.encryption))
    assert ROOT not in repr(now)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("10.0.0.1", False), ("example.com", False), ("localhost.example.com", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
