"""`create-admin-key`: the first credential of an installation, made by whoever holds its database."""

from __future__ import annotations

from dunwell_server.admin.jobs import create_admin_key as create
from dunwell_server.cli.output import Output
from dunwell_server.cli.session import application

COMMAND = "create-admin-key"


async def create_admin_key(name: str, *, as_json: bool) -> int:
    """Make the key and print it, this once."""
    output = Output(as_json=as_json)
    async with application(COMMAND, pool_size=1) as app:
        secret = await create(app.database, app.settings.keys.api_key_peppers[0], name)
    output.result({"command": COMMAND, "role": "ADMIN", "secret": secret})
    output.note("An API key of role ADMIN. It is shown this once and stored nowhere:")
    output.say(secret)
    return 0
