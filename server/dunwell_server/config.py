"""Every setting of the service, from the environment, with what it means.

Names the outside world already knows (`DATABASE_URL`, `PAYMENT_PROVIDER`, `ENABLE_*`)
are taken as they are; all others start with `DUNWELL_`. An empty variable counts as not set. A `.env` file in the
working directory is read too. Secrets are `SecretStr`: they never print themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from dunwell_server.platform.features import Feature, FeatureDefaults
from dunwell_server.platform.keys import MIN_SECRET_CHARS, Keys, development_secret
from dunwell_server.sidecar_config import Port, SidecarSettings, env_field, is_loopback, names

__all__ = ["SettingRow", "Settings", "describe_settings", "is_loopback"]

_STRIPE_MODES: Final = {"sk_test_": "TEST", "rk_test_": "TEST", "sk_live_": "LIVE", "rk_live_": "LIVE"}


class Settings(SidecarSettings):
    """The configuration of the service. `Settings()` reads the environment; pydantic names every wrong value."""

    # Where things are
    environment: Literal["development", "production"] = env_field(
        "DUNWELL_ENVIRONMENT", default="development",
        description="production refuses generated secrets and the embedded database",
    )  # fmt: skip
    data_dir: Path = env_field(
        "DUNWELL_DATA_DIR",
        default=Path(".dunwell"),
        description="Folder of the embedded database and of generated secrets",
    )
    database_url: SecretStr | None = env_field(
        "DATABASE_URL", default=None,
        description="PostgreSQL (15 or newer) as the application's role; not set: the embedded database",
    )  # fmt: skip
    owner_database_url: SecretStr | None = env_field(
        "DUNWELL_OWNER_DATABASE_URL", default=None,
        description="The same database as the role that owns the schema; migrations use it",
    )  # fmt: skip
    audit_database_url: SecretStr | None = env_field(
        "DUNWELL_AUDIT_DATABASE_URL", default=None,
        description="The same database as the read-only role of `verify`, which sees every firm",
    )  # fmt: skip

    # The RPC server
    host: str = env_field("DUNWELL_HOST", default="127.0.0.1", description="Address the RPC server binds")
    port: Port = env_field(
        "DUNWELL_PORT", default=50051, description="Port of the RPC server; 0 lets the system choose"
    )
    workers: int = env_field(
        "DUNWELL_WORKERS", default=1, description="RPC worker processes sharing the port", ge=1, le=256
    )
    jobs: int = env_field("DUNWELL_JOBS", default=1, description="Job worker processes", ge=0, le=256)
    job_nice: int = env_field(
        "DUNWELL_JOB_NICE", default=5,
        description="How much job workers give way to RPC workers on the processor (`nice`); 0: not at all", ge=0, le=19,
    )  # fmt: skip
    metrics_port: Port = env_field(
        "DUNWELL_METRICS_PORT", default=9464,
        description="First loopback port of Prometheus metrics, one per process; 0 switches them off",
    )  # fmt: skip
    channelz_port: Port = env_field(
        "DUNWELL_CHANNELZ_PORT",
        default=0,
        description="First loopback port of channelz, one per RPC worker; 0 switches it off",
    )
    tls_cert_file: Path | None = env_field(
        "DUNWELL_TLS_CERT_FILE", default=None, description="PEM certificate chain of the server"
    )
    tls_key_file: Path | None = env_field(
        "DUNWELL_TLS_KEY_FILE", default=None, description="PEM private key of the server"
    )
    tls_client_ca_file: Path | None = env_field(
        "DUNWELL_TLS_CLIENT_CA_FILE",
        default=None,
        description="PEM authorities of client certificates; set: clients must present one",
    )
    enable_reflection: bool = env_field(
        "ENABLE_REFLECTION", default=True, description="Serve gRPC reflection, v1 and v1alpha"
    )

    # Who may call
    secret_key: SecretStr | None = env_field(
        "DUNWELL_SECRET_KEY", default=None,
        description="Root secret of 32 characters or more; development makes one in the data folder",
    )  # fmt: skip
    previous_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(names)] = env_field(
        "DUNWELL_PREVIOUS_SECRET_KEYS",
        default=(),
        description="Earlier root secrets, comma-separated: still verify and decrypt, never sign",
    )
    jwt_issuer: str | None = env_field(
        "DUNWELL_JWT_ISSUER",
        default=None,
        description="`iss` that JWTs must carry; JWTs are refused where it is not set",
    )
    jwt_audience: str = env_field("DUNWELL_JWT_AUDIENCE", default="dunwell", description="`aud` that JWTs must carry")
    jwt_jwks_file: Path | None = env_field(
        "DUNWELL_JWT_JWKS_FILE",
        default=None,
        description="JWKS file with the issuer's public keys; read again when it changes",
    )

    # Limits
    default_deadline: float = env_field(
        "DUNWELL_DEFAULT_DEADLINE",
        default=30.0,
        description="Seconds a unary call may take where the caller set no deadline",
        gt=0,
    )
    max_deadline: float = env_field(
        "DUNWELL_MAX_DEADLINE",
        default=300.0,
        description="Most seconds a unary call may take, whatever the caller asks",
        gt=0,
    )
    max_concurrent_unary: int = env_field(
        "DUNWELL_MAX_CONCURRENT_UNARY",
        default=200,
        description="Unary calls in progress per worker; more are refused",
        ge=1,
    )
    max_streams: int = env_field(
        "DUNWELL_MAX_STREAMS", default=400, description="Open streams per worker; more are refused", ge=1
    )
    max_streams_per_caller: int = env_field(
        "DUNWELL_MAX_STREAMS_PER_CALLER", default=50, description="Open streams per credential and worker", ge=1
    )
    max_stream_age: float = env_field(
        "DUNWELL_MAX_STREAM_AGE",
        default=900.0,
        description="Seconds after which a stream is ended, to be resumed elsewhere",
        gt=0,
    )
    rate_per_caller: float = env_field(
        "DUNWELL_RATE_PER_CALLER",
        default=5000.0,
        description="Calls a second per credential and worker, over time",
        gt=0,
    )
    rate_burst: float = env_field(
        "DUNWELL_RATE_BURST", default=10000.0, description="Calls a credential may make at once, per worker", ge=1
    )
    pool_size: int = env_field("DUNWELL_POOL_SIZE", default=10, description="Database connections per process", ge=1)
    pool_waiting: int = env_field(
        "DUNWELL_POOL_WAITING",
        default=100,
        description="Calls that may wait for a database connection, per process",
        ge=0,
    )

    # Payment providers
    payment_provider: str = env_field(
        "PAYMENT_PROVIDER", default="sandbox", description="Provider of firms that name none of their own"
    )
    sandbox_url: str | None = env_field(
        "DUNWELL_SANDBOX_URL",
        default=None,
        description="A sandbox gateway running elsewhere; not set: `serve` starts one",
    )
    sandbox_port: Port = env_field(
        "DUNWELL_SANDBOX_PORT", default=50061, description="Loopback port of the sandbox gateway that `serve` starts"
    )

    stripe_secret_key: SecretStr | None = env_field(
        "STRIPE_SECRET_KEY",
        default=None,
        description="Secret or restricted key of the installation's Stripe account, for firms that have none of their own; "
        "it tells whether the account is for tests",
    )
    stripe_publishable_key: str | None = env_field(
        "STRIPE_PUBLISHABLE_KEY", default=None, description="Publishable key of that account, for browsers"
    )
    stripe_webhook_secret: SecretStr | None = env_field(
        "STRIPE_WEBHOOK_SECRET",
        default=None,
        description="Signing secret of that account's webhook endpoint; the one it replaces verifies for another 24 hours",
    )
    stripe_api_base: str | None = env_field(
        "DUNWELL_STRIPE_API_BASE", default=None, description="Stripe's API at another address: a stand-in, for tests"
    )
    return_url: str | None = env_field(
        "DUNWELL_RETURN_URL",
        default=None,
        description="Where clients come back to from a provider's page when the call that made it names no address",
        pattern=r"^https?://\S+$",
    )

    # Switches
    enable_sidecar: bool = env_field(
        "ENABLE_SIDECAR", default=True, description="`serve` starts a webhook sidecar of its own"
    )
    enable_scheduler: bool = env_field(
        "ENABLE_SCHEDULER", default=True, description="Start the daily runs by the clock"
    )
    enable_sandbox: bool = env_field(
        "ENABLE_SANDBOX", default=True, description="Offer the sandbox provider to firms in test mode"
    )

    enable_card_payments: bool = env_field(
        "ENABLE_CARD_PAYMENTS",
        default=True,
        description="Charge cards and attach card payment methods; firms may differ",
    )
    enable_proration: bool = env_field(
        "ENABLE_PRORATION",
        default=True,
        description="Prorate partial periods; off: they are billed in full; firms may differ",
    )
    enable_upi_payments: bool = env_field(
        "ENABLE_UPI_PAYMENTS", default=True, description="UPI payments; firms may differ"
    )
    enable_free_trial: bool = env_field("ENABLE_FREE_TRIAL", default=True, description="Free trials; firms may differ")
    enable_annual_billing: bool = env_field(
        "ENABLE_ANNUAL_BILLING", default=True, description="Yearly intervals; firms may differ"
    )
    enable_trial_reminders: bool = env_field(
        "ENABLE_TRIAL_REMINDERS", default=True, description="Reminders before a trial ends; firms may differ"
    )

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_SECRET_CHARS:
            raise ValueError(f"needs at least {MIN_SECRET_CHARS} characters")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("DUNWELL_TLS_CERT_FILE and DUNWELL_TLS_KEY_FILE go together")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("DUNWELL_TLS_CLIENT_CA_FILE needs DUNWELL_TLS_CERT_FILE and DUNWELL_TLS_KEY_FILE")
        if (self.jwt_issuer is None) != (self.jwt_jwks_file is None):
            raise ValueError("DUNWELL_JWT_ISSUER and DUNWELL_JWT_JWKS_FILE go together")
        if self.environment == "production" and self.secret_key is None:
            raise ValueError("DUNWELL_SECRET_KEY must be set in production")
        if self.environment == "production" and self.database_url is None:
            raise ValueError("DATABASE_URL must be set in production")
        return self

    @model_validator(mode="after")
    def _one_stripe_account(self) -> Settings:
        if self.stripe_secret_key is None:
            if self.stripe_publishable_key is not None or self.stripe_webhook_secret is not None:
                raise ValueError("STRIPE_PUBLISHABLE_KEY and STRIPE_WEBHOOK_SECRET need STRIPE_SECRET_KEY")
            return self
        if self.stripe_mode is None:
            raise ValueError("STRIPE_SECRET_KEY begins with sk_test_, rk_test_, sk_live_ or rk_live_")
        publishable = self.stripe_publishable_key
        if publishable is not None and not publishable.startswith(f"pk_{self.stripe_mode.lower()}_"):
            raise ValueError("STRIPE_PUBLISHABLE_KEY and STRIPE_SECRET_KEY are not of the same mode")
        return self

    @property
    def stripe_mode(self) -> str | None:
        """TEST or LIVE: what the key of the installation's Stripe account says; None without one, or for no key of Stripe."""
        if self.stripe_secret_key is None:
            return None
        return _STRIPE_MODES.get(self.stripe_secret_key.get_secret_value()[:8])

    @property
    def makes_sidecar_key(self) -> bool:
        """Whether `serve` starts a sidecar and has to make its API key."""
        return self.enable_sidecar and self.sidecar_key is None and self.sidecar_key_file is None

    @property
    def features(self) -> FeatureDefaults:
        """The feature switches that firms may override."""
        return FeatureDefaults({feature: getattr(self, feature.value) for feature in Feature})

    @property
    def uses_tls(self) -> bool:
        """Whether the RPC server has a certificate."""
        return self.tls_cert_file is not None

    @property
    def address(self) -> str:
        """`host:port` of the RPC server, IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @cached_property
    def keys(self) -> Keys:
        """The keys derived from the root secret. In development this may create the secret's file."""
        if self.secret_key is not None:
            root = self.secret_key.get_secret_value().encode()
        else:
            root = development_secret(self.data_dir)
        return Keys(root, tuple(secret.get_secret_value().encode() for secret in self.previous_secret_keys))


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the configuration table."""

    variable: str
    default: str
    description: str
    secret: bool


def describe_settings() -> Sequence[SettingRow]:
    """Every variable with its default and meaning: the README's table is made of it. The sidecar's come last."""
    rows = []
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: item[0] in SidecarSettings.model_fields):
        secret = "SecretStr" in str(field.annotation)
        default = field.default
        text = (
            ""
            if default is None or default in ((), {})
            else str(default).lower()
            if isinstance(default, bool)
            else str(default)
        )
        if not field.description:
            raise AssertionError(f"setting {name} has no description")
        rows.append(SettingRow(str(field.validation_alias), text, field.description, secret))
    return rows
