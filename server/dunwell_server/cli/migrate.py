"""`migrate`: roles and schema."""

from __future__ import annotations

from dunwell_server.bootstrap import migrate_database, resolve_urls
from dunwell_server.cli.installation import database_of, is_embedded
from dunwell_server.cli.output import Output
from dunwell_server.cli.problems import configure
from dunwell_server.config import Settings


def migrate(settings: Settings, *, as_json: bool) -> int:
    """Bring the database to this release and print the revision reached."""
    configure(settings, process="migrate")
    output = Output(as_json=as_json)
    with database_of(settings):
        revision = migrate_database(resolve_urls(settings, accept_owner=True))
    embedded = is_embedded(settings)
    output.result({"command": "migrate", "revision": revision, "embedded": embedded})
    place = f"the embedded PostgreSQL in {settings.data_dir}" if embedded else "the database"
    output.say(f"Schema {revision}: {place} is ready for this release.")
    return 0
