"""`sidecar`: the webhook sidecar, alone or as a child of `serve`. Loads nothing that reaches a database."""

from __future__ import annotations

from typing import Any

from dunwell_server.cli.problems import levels
from dunwell_server.platform.logging import configure_logging
from dunwell_server.sidecar_config import SidecarSettings
from dunwell_server.supervisor import die_with_supervisor
from dunwell_server.webhooks.server import run


def sidecar(**overrides: Any) -> int:
    """Serve webhooks until SIGTERM or SIGINT. Options given go before the environment. ValidationError, SidecarError."""
    die_with_supervisor()
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = SidecarSettings().model_copy(update=given)
    configure_logging(level=settings.log_level, levels=levels(settings), form=settings.log_format, process="sidecar")
    return run(settings)
