"""`create-admin-key`: the first credential of an installation, made by whoever holds its database."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.bootstrap import Application
from dunwell_server.cli.output import Output
from dunwell_server.cli.session import application, context
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.rpc.auth import MintedKey, mint_key

COMMAND = "create-admin-key"
_INSERT = """
INSERT INTO control.api_key (id, role, display_name, secret_hash, create_actor)
VALUES (%(id)s, 'ADMIN', %(name)s, %(hash)s, %(actor)s)
"""
_AUDIT = """
INSERT INTO control.audit_event (id, action, actor, method, metadata)
VALUES (gen_random_uuid(), 'api_key_created', %(actor)s, %(method)s, jsonb_build_object('api_key_id', %(key)s::text, 'role', 'ADMIN'))
"""


async def create_admin_key(name: str, *, as_json: bool) -> int:
    """Make the key and print it, this once."""
    output = Output(as_json=as_json)
    async with application(COMMAND, pool_size=1) as app:
        minted = await mint_admin_key(app, name)
    key_id = encode(Prefix.API_KEY, minted.id)
    output.result({"command": COMMAND, "api_key_id": key_id, "role": "ADMIN", "secret": minted.text})
    output.note(f"API key {key_id} of role ADMIN. It is shown this once and stored nowhere:")
    if not as_json:
        output.out.print(minted.text, soft_wrap=True)
    return 0


async def mint_admin_key(app: Application, name: str) -> MintedKey:
    """Store a new ADMIN key's hash, with its audit entry, and return the key itself."""
    minted = mint_key(app.settings.keys.api_key_peppers[0], live=app.settings.environment == "production")
    ctx = context(None, COMMAND)
    key_id: UUID = minted.id
    values = {
        "id": key_id, "name": name, "hash": minted.secret_hash, "actor": ctx.actor.label, "method": ctx.method,
        "key": encode(Prefix.API_KEY, key_id),
    }  # fmt: skip
    async with app.database.transaction(ctx) as uow:
        await uow.execute(_INSERT, values)
        await uow.execute(_AUDIT, values)
    return minted
