"""The `dunwell` command: what operators type. One module per command; the work itself is done by the contexts."""

from dunwell_server.cli.app import main

__all__ = ["main"]
