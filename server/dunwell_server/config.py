"""Every setting of the service, from the environment, with what it means.

Names the outside world already knows (`DATABASE_URL`, `PAYMENT_PROVIDER`, `ENABLE_*`)
are taken as they are; all others start with `DUNWELL_`. An empty variable counts as not set. A `.env` file in the
working directory is read too. Secrets are `SecretStr`: they never print themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from dunwell_server.platform.features import Feature, FeatureDefaults
from dunwell_server.platform.keys import MIN_SECRET_CHARS, Keys, development_secret


def _pairs(value: object) -> object:
    """`a=b,c=d` as a dictionary; anything else as it came."""
    if not isinstance(value, str):
        return value
    result: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in value.split(","))):
        name, separator, level = part.partition("=")
        if not separator:
            raise ValueError(f"{part!r} is not of the form module=LEVEL")
        result[name.strip()] = level.strip().upper()
    return result


def _names(value: object) -> object:
    """`a,b` as a tuple of words; anything else as it came."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Port = Annotated[int, Field(ge=0, le=65535)]


def _env(*names: str, default: Any, description: str, **limits: Any) -> Any:
    """A field read from the first of `names` that is set."""
    return Field(default, validation_alias=names[0], description=description, **limits)


class Settings(BaseSettings):
    """The configuration of one process. `Settings()` reads the environment; pydantic names every wrong value."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # Where things are
    environment: Literal["development", "production"] = _env(
        "DUNWELL_ENVIRONMENT", default="development",
        description="production refuses generated secrets and the embedded database",
    )  # fmt: skip
    data_dir: Path = _env(
        "DUNWELL_DATA_DIR",
        default=Path(".dunwell"),
        description="Folder of the embedded database and of generated secrets",
    )
    database_url: SecretStr | None = _env(
        "DATABASE_URL", default=None,
        description="PostgreSQL (15 or newer) as the application's role; not set: the embedded database",
    )  # fmt: skip
    owner_database_url: SecretStr | None = _env(
        "DUNWELL_OWNER_DATABASE_URL", default=None,
        description="The same database as the role that owns the schema; migrations use it",
    )  # fmt: skip
    audit_database_url: SecretStr | None = _env(
        "DUNWELL_AUDIT_DATABASE_URL", default=None,
        description="The same database as the read-only role of `verify`, which sees every firm",
    )  # fmt: skip

    # The RPC server
    host: str = _env("DUNWELL_HOST", default="127.0.0.1", description="Address the RPC server binds")
    port: Port = _env("DUNWELL_PORT", default=50051, description="Port of the RPC server; 0 lets the system choose")
    workers: int = _env("DUNWELL_WORKERS", default=1, description="RPC worker processes sharing the port", ge=1, le=256)
    jobs: int = _env("DUNWELL_JOBS", default=1, description="Job worker processes", ge=0, le=256)
    metrics_port: Port = _env(
        "DUNWELL_METRICS_PORT", default=9464,
        description="First loopback port of Prometheus metrics, one per process; 0 switches them off",
    )  # fmt: skip
    channelz_port: Port = _env(
        "DUNWELL_CHANNELZ_PORT",
        default=0,
        description="First loopback port of channelz, one per RPC worker; 0 switches it off",
    )
    allow_plaintext: bool = _env(
        "DUNWELL_ALLOW_PLAINTEXT", default=False, description="Serve without TLS on an address that is not loopback"
    )
    tls_cert_file: Path | None = _env(
        "DUNWELL_TLS_CERT_FILE", default=None, description="PEM certificate chain of the server"
    )
    tls_key_file: Path | None = _env("DUNWELL_TLS_KEY_FILE", default=None, description="PEM private key of the server")
    tls_client_ca_file: Path | None = _env(
        "DUNWELL_TLS_CLIENT_CA_FILE",
        default=None,
        description="PEM authorities of client certificates; set: clients must present one",
    )
    enable_reflection: bool = _env(
        "ENABLE_REFLECTION", default=True, description="Serve gRPC reflection, v1 and v1alpha"
    )

    # Who may call
    secret_key: SecretStr | None = _env(
        "DUNWELL_SECRET_KEY", default=None,
        description="Root secret of 32 characters or more; development makes one in the data folder",
    )  # fmt: skip
    previous_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_names)] = _env(
        "DUNWELL_PREVIOUS_SECRET_KEYS",
        default=(),
        description="Earlier root secrets, comma-separated: still verify and decrypt, never sign",
    )
    jwt_issuer: str | None = _env(
        "DUNWELL_JWT_ISSUER",
        default=None,
        description="`iss` that JWTs must carry; JWTs are refused where it is not set",
    )
    jwt_audience: str = _env("DUNWELL_JWT_AUDIENCE", default="dunwell", description="`aud` that JWTs must carry")
    jwt_jwks_file: Path | None = _env(
        "DUNWELL_JWT_JWKS_FILE",
        default=None,
        description="JWKS file with the issuer's public keys; read again when it changes",
    )

    # Limits
    default_deadline: float = _env(
        "DUNWELL_DEFAULT_DEADLINE",
        default=30.0,
        description="Seconds a unary call may take where the caller set no deadline",
        gt=0,
    )
    max_deadline: float = _env(
        "DUNWELL_MAX_DEADLINE",
        default=300.0,
        description="Most seconds a unary call may take, whatever the caller asks",
        gt=0,
    )
    max_concurrent_unary: int = _env(
        "DUNWELL_MAX_CONCURRENT_UNARY",
        default=200,
        description="Unary calls in progress per worker; more are refused",
        ge=1,
    )
    max_streams: int = _env(
        "DUNWELL_MAX_STREAMS", default=400, description="Open streams per worker; more are refused", ge=1
    )
    max_streams_per_caller: int = _env(
        "DUNWELL_MAX_STREAMS_PER_CALLER", default=50, description="Open streams per credential and worker", ge=1
    )
    max_stream_age: float = _env(
        "DUNWELL_MAX_STREAM_AGE",
        default=900.0,
        description="Seconds after which a stream is ended, to be resumed elsewhere",
        gt=0,
    )
    rate_per_caller: float = _env(
        "DUNWELL_RATE_PER_CALLER",
        default=5000.0,
        description="Calls a second per credential and worker, over time",
        gt=0,
    )
    rate_burst: float = _env(
        "DUNWELL_RATE_BURST", default=10000.0, description="Calls a credential may make at once, per worker", ge=1
    )
    pool_size: int = _env("DUNWELL_POOL_SIZE", default=10, description="Database connections per process", ge=1)
    pool_waiting: int = _env(
        "DUNWELL_POOL_WAITING",
        default=100,
        description="Calls that may wait for a database connection, per process",
        ge=0,
    )
    drain_delay: float = _env(
        "DUNWELL_DRAIN_DELAY",
        default=0.5,
        description="Seconds between NOT_SERVING and refusing calls, for load balancers",
        ge=0,
    )
    shutdown_grace: float = _env(
        "DUNWELL_SHUTDOWN_GRACE",
        default=20.0,
        description="Seconds that calls and charges in flight get to finish",
        ge=0,
        le=25,
    )

    # Logs
    log_level: LogLevel = _env(
        "DUNWELL_LOG_LEVEL", default="INFO", description="Level of everything that `DUNWELL_LOG_LEVELS` does not name"
    )
    log_levels: Annotated[dict[str, LogLevel], NoDecode, BeforeValidator(_pairs)] = _env(
        "DUNWELL_LOG_LEVELS", default={}, description="Level per module: `dunwell_server.rpc=DEBUG,psycopg=WARNING`"
    )
    log_format: Literal["auto", "json", "console"] = _env(
        "DUNWELL_LOG_FORMAT", default="auto", description="auto: console on a terminal, else JSON"
    )

    # Payment providers
    payment_provider: str = _env(
        "PAYMENT_PROVIDER", default="sandbox", description="Provider of firms that name none of their own"
    )
    sandbox_url: str | None = _env(
        "DUNWELL_SANDBOX_URL",
        default=None,
        description="A sandbox gateway running elsewhere; not set: `serve` starts one",
    )
    sandbox_port: Port = _env(
        "DUNWELL_SANDBOX_PORT", default=50061, description="Loopback port of the sandbox gateway that `serve` starts"
    )

    # Switches
    enable_scheduler: bool = _env("ENABLE_SCHEDULER", default=True, description="Start the daily runs by the clock")
    enable_sandbox: bool = _env(
        "ENABLE_SANDBOX", default=True, description="Offer the sandbox provider to firms in test mode"
    )

    enable_card_payments: bool = _env(
        "ENABLE_CARD_PAYMENTS",
        default=True,
        description="Charge cards and attach card payment methods; firms may differ",
    )
    enable_proration: bool = _env(
        "ENABLE_PRORATION",
        default=True,
        description="Prorate partial periods; off: they are billed in full; firms may differ",
    )
    enable_upi_payments: bool = _env("ENABLE_UPI_PAYMENTS", default=True, description="UPI payments; firms may differ")
    enable_free_trial: bool = _env("ENABLE_FREE_TRIAL", default=True, description="Free trials; firms may differ")
    enable_annual_billing: bool = _env(
        "ENABLE_ANNUAL_BILLING", default=True, description="Yearly intervals; firms may differ"
    )
    enable_trial_reminders: bool = _env(
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than `localhost` counts as reachable from outside."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the configuration table."""

    variable: str
    default: str
    description: str
    secret: bool


def describe_settings() -> Sequence[SettingRow]:
    """Every variable with its default and meaning, in the order of the class: the README's table is made of it."""
    rows = []
    for name, field in Settings.model_fields.items():
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
