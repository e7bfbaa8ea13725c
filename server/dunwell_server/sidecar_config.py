"""The settings that the webhook sidecar takes from the environment, and the words in which settings are written.

Apart from `config`, which knows the database: the sidecar is a process that must not even load what reaches one. Whoever
runs the whole service has these settings as part of its own.
"""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Port = Annotated[int, Field(ge=0, le=65535)]


def env_field(variable: str, *, default: Any, description: str, **limits: Any) -> Any:
    """A field read from `variable`."""
    return Field(default, validation_alias=variable, description=description, **limits)


def pairs(value: object) -> object:
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


def names(value: object) -> object:
    """`a,b` as a tuple of words; anything else as it came."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`. A name other than `localhost` counts as reachable from outside."""
    if host == "localhost" or host.startswith("unix:"):
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(address: str) -> str:
    """The host of `host:port`, without the brackets of an IPv6 address; a `unix:` address as it is."""
    return address if address.startswith("unix:") else address.rpartition(":")[0].strip("[]")


class SidecarSettings(BaseSettings):
    """What a sidecar needs to know, wherever it runs. `SidecarSettings()` reads the environment; pydantic names every wrong value."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # What every process has
    allow_plaintext: bool = env_field(
        "DUNWELL_ALLOW_PLAINTEXT", default=False, description="Serve without TLS on an address that is not loopback"
    )
    drain_delay: float = env_field(
        "DUNWELL_DRAIN_DELAY",
        default=0.5,
        description="Seconds between NOT_SERVING and refusing calls, for load balancers",
        ge=0,
    )
    shutdown_grace: float = env_field(
        "DUNWELL_SHUTDOWN_GRACE",
        default=20.0,
        description="Seconds that calls and charges in flight get to finish",
        ge=0,
        le=25,
    )
    log_level: LogLevel = env_field(
        "DUNWELL_LOG_LEVEL", default="INFO", description="Level of everything that `DUNWELL_LOG_LEVELS` does not name"
    )
    log_levels: Annotated[dict[str, LogLevel], NoDecode, BeforeValidator(pairs)] = env_field(
        "DUNWELL_LOG_LEVELS", default={}, description="Level per module: `dunwell_server.rpc=DEBUG,psycopg=WARNING`"
    )
    log_format: Literal["auto", "json", "console"] = env_field(
        "DUNWELL_LOG_FORMAT", default="auto", description="auto: console on a terminal, else JSON"
    )

    # The webhook sidecar: where it listens
    sidecar_host: str = env_field("DUNWELL_SIDECAR_HOST", default="127.0.0.1", description="Address the sidecar binds")
    sidecar_port: Port = env_field(
        "DUNWELL_SIDECAR_PORT", default=50071, description="Port of the sidecar's HTTP; 0 lets the system choose"
    )
    sidecar_tls_cert_file: Path | None = env_field(
        "DUNWELL_SIDECAR_TLS_CERT_FILE",
        default=None,
        description="PEM certificate chain of the sidecar; not set: plain HTTP, for a proxy in front of it",
    )
    sidecar_tls_key_file: Path | None = env_field(
        "DUNWELL_SIDECAR_TLS_KEY_FILE", default=None, description="PEM private key of the sidecar"
    )
    sidecar_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(names)] = env_field(
        "DUNWELL_SIDECAR_PROXIES",
        default=(),
        description="Proxies, by address or network, whose `X-Forwarded-For` names the sender of a webhook",
    )
    sidecar_metrics_port: Port = env_field(
        "DUNWELL_SIDECAR_METRICS_PORT",
        default=9463,
        description="Loopback port of the sidecar's Prometheus metrics; 0 switches them off",
    )
    sidecar_max_concurrent: int = env_field(
        "DUNWELL_SIDECAR_MAX_CONCURRENT",
        default=100,
        description="Webhooks in progress; more are answered 503",
        ge=1,
        le=10_000,
    )

    # ... and the server that it calls
    sidecar_server: str = env_field(
        "DUNWELL_SIDECAR_SERVER",
        default="127.0.0.1:50051",
        description="`host:port` of the RPC server that the sidecar calls; `serve` tells its own sidecar",
    )
    sidecar_server_tls: Literal["auto", "on", "off"] = env_field(
        "DUNWELL_SIDECAR_SERVER_TLS",
        default="auto",
        description="TLS to that server; auto: on, unless it is on loopback and no CA file is set",
    )
    sidecar_ca_file: Path | None = env_field(
        "DUNWELL_SIDECAR_CA_FILE",
        default=None,
        description="PEM authorities that the server's certificate must come from; not set: the well-known ones",
    )
    sidecar_server_name: str | None = env_field(
        "DUNWELL_SIDECAR_SERVER_NAME",
        default=None,
        description="Name that the server's certificate must bear; not set: the host of its address",
    )
    sidecar_client_cert_file: Path | None = env_field(
        "DUNWELL_SIDECAR_CLIENT_CERT_FILE",
        default=None,
        description="PEM certificate chain that the sidecar shows the server, for mutual TLS",
    )
    sidecar_client_key_file: Path | None = env_field(
        "DUNWELL_SIDECAR_CLIENT_KEY_FILE", default=None, description="PEM private key of that certificate"
    )
    sidecar_key: SecretStr | None = env_field(
        "DUNWELL_SIDECAR_KEY",
        default=None,
        description="API key of role SIDECAR; where neither it nor its file is set, `serve` makes one for its own sidecar",
    )
    sidecar_key_file: Path | None = env_field(
        "DUNWELL_SIDECAR_KEY_FILE",
        default=None,
        description="File with that key; read again when the server refuses the key",
    )
    sidecar_deadline: float = env_field(
        "DUNWELL_SIDECAR_DEADLINE",
        default=5.0,
        description="Seconds the server gets to take a webhook in; afterwards the provider is told to come again",
        gt=0,
        le=30,
    )

    @model_validator(mode="after")
    def _whole_pairs(self) -> SidecarSettings:
        for one, other in (
            ("sidecar_tls_cert_file", "sidecar_tls_key_file"),
            ("sidecar_client_cert_file", "sidecar_client_key_file"),
        ):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"DUNWELL_{one.upper()} and DUNWELL_{other.upper()} go together")
        host, separator, port = self.sidecar_server.rpartition(":")
        if not self.sidecar_server.startswith("unix:") and not (separator and host and port.isdigit()):
            raise ValueError("DUNWELL_SIDECAR_SERVER is of the form host:port")
        return self

    @property
    def sidecar_uses_tls(self) -> bool:
        """Whether the sidecar speaks HTTPS itself."""
        return self.sidecar_tls_cert_file is not None

    @property
    def calls_over_tls(self) -> bool:
        """Whether the RPC server is called over TLS: always, where it is not on this machine, unless told otherwise."""
        if self.sidecar_server_tls != "auto":
            return self.sidecar_server_tls == "on"
        return self.sidecar_ca_file is not None or not is_loopback(host_of(self.sidecar_server))
