"""`document`: an invoice, a receipt, a credit note or a statement as a file, for people at this machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Final

from rich.markup import escape

from dunwell_server.billing.documents.data import Kind
from dunwell_server.billing.jobs.documents import Rendered, render
from dunwell_server.billing.service.documents import Form, Wanted
from dunwell_server.cli.output import Output
from dunwell_server.cli.problems import USAGE, CommandError
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.platform.database import Database

COMMAND: Final = "document"
_KINDS: Final = {
    Prefix.INVOICE: Kind.INVOICE,
    Prefix.PAYMENT: Kind.RECEIPT,
    Prefix.CREDIT_NOTE: Kind.CREDIT_NOTE,
    Prefix.CLIENT: Kind.STATEMENT,
}


async def document(
    *,
    object_id: str,
    firm_id: str | None,
    output: Path | None,
    html: bool,
    locale: str | None,
    current: bool,
    start: date | None,
    until: date | None,
    as_json: bool,
) -> int:
    """Write a document to a file. `until` is a statement's last day."""
    wanted = wanted_of(object_id, html=html, locale=locale, current=current, start=start, until=until)
    async with application(COMMAND, pool_size=2) as app:
        rendered = await _find(app.database, await firms(app.database, COMMAND, firm_id), wanted)
    path = output if output is not None else Path(rendered.file_name)
    try:
        path.write_bytes(rendered.content)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", USAGE) from error
    said = Output(as_json=as_json)
    said.result({
        "command": COMMAND, "file": str(path), "content_type": rendered.content_type, "locale": rendered.locale,
        "size_bytes": len(rendered.content), "sha256": rendered.digest.hex(), "kept": rendered.kept,
    })  # fmt: skip
    kept = ", kept as it was sent" if rendered.kept else ""
    said.say(f"{escape(str(path))}: {len(rendered.content):,} bytes, in {rendered.locale}{kept}.")
    return 0


def wanted_of(
    object_id: str, *, html: bool, locale: str | None, current: bool, start: date | None, until: date | None
) -> Wanted:
    """What the id and the options ask for. CommandError, INVALID_ID."""
    kind = next((_KINDS[prefix] for prefix in _KINDS if object_id.startswith(f"{prefix}_")), None)
    if kind is None:
        raise CommandError(
            "name an invoice (inv_…), a payment (pay_…), a credit note (crn_…) or a client (cli_…)", USAGE
        )
    prefix = next(prefix for prefix, of in _KINDS.items() if of is kind)
    if (kind is Kind.STATEMENT) != (start is not None and until is not None):
        raise CommandError("a client's statement needs --from and --to, and nothing else takes them", USAGE)
    if current and kind is not Kind.INVOICE:
        raise CommandError("only of an invoice there is a document as it stands now", USAGE)
    return Wanted(
        kind,
        decode(prefix, object_id, "OBJECT"),
        Form.HTML if html else Form.PDF,
        locale,
        current,
        start,
        until + timedelta(days=1) if until is not None else None,
    )


async def _find(database: Database, rows: Sequence[FirmRow], wanted: Wanted) -> Rendered:
    """The document of the firm that has the object."""
    for firm in rows:
        try:
            return await render(database, context(firm.id, COMMAND), wanted)
        except DunwellError as error:
            if error.reason is not Reason.RESOURCE_NOT_FOUND:
                raise
    raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No firm has such an object.")
