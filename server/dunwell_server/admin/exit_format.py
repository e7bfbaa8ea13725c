"""The file that a firm leaves in: JSON Lines, a first line that says what follows, the rows of each table, and a manifest. Pure.

`server/docs/data-exit.md` documents it for other programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode, encode

FORMAT: Final = "dunwell-firm-export"
VERSION: Final = 1
MAX_LINE_BYTES: Final = 256 * 1024 * 1024
"""A longer line is no row of ours: whoever reads it need not keep it."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: whose data it is, of which moment and schema, and the tables with their columns, in the file's order."""

    firm_id: UUID
    snapshot_time: datetime
    schema_revision: str
    tables: Mapping[str, Sequence[str]]

    def line(self) -> bytes:
        """As it stands in the file."""
        return _line({
            "format": FORMAT, "version": VERSION, "firm_id": encode(Prefix.FIRM, self.firm_id), "snapshot_time": self.snapshot_time.isoformat(),
            "schema_revision": self.schema_revision,
            "tables": [{"name": name, "columns": list(columns)} for name, columns in self.tables.items()],
        })  # fmt: skip


@dataclass(slots=True)
class TableSum:
    """What of one table is in the file: its lines, and the hash over them."""

    name: str
    rows: int = 0
    hasher: Any = field(default_factory=sha256)

    def add(self, lines: bytes, rows: int) -> None:
        """Count whole lines."""
        self.rows += rows
        self.hasher.update(lines)

    @property
    def digest(self) -> str:
        """The hash so far, in hexadecimal digits."""
        return str(self.hasher.hexdigest())


def prefix_of(table: str) -> bytes:
    """How each line of a table begins; the row and a closing brace follow."""
    return b'{"table":"%s","row":' % table.encode()


def manifest_line(header: Header, sums: Sequence[TableSum]) -> bytes:
    """The last line."""
    return _line({"manifest": {
        "version": VERSION, "firm_id": encode(Prefix.FIRM, header.firm_id), "snapshot_time": header.snapshot_time.isoformat(),
        "tables": [{"name": each.name, "rows": each.rows, "sha256": each.digest} for each in sums],
        "rows": sum(each.rows for each in sums),
    }})  # fmt: skip


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def damaged(cause: str, message: str, *, table: str = "", line: int = 0) -> DunwellError:
    """IMPORT_DAMAGED: what is wrong with the file, and where."""
    where = {"table": table, "line": str(line) if line else ""}
    metadata = {"cause": cause, **{name: value for name, value in where.items() if value}}
    return DunwellError(Reason.IMPORT_DAMAGED, message, metadata=metadata)


def read_header(line: bytes) -> Header:
    """The first line of a file. IMPORT_DAMAGED where it is none of this format and version."""
    try:
        data = json.loads(line)
        if data["format"] != FORMAT:
            raise ValueError
        version = data["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged("format", f"The first line is not that of a {FORMAT} file.", line=1) from None
    if version != VERSION:
        raise damaged(
            "version", f"The file has format version {version!r}; this release reads version {VERSION}.", line=1
        )
    try:
        return Header(
            decode(Prefix.FIRM, data["firm_id"], "firm_id"), datetime.fromisoformat(data["snapshot_time"]), str(data["schema_revision"]),
            {str(table["name"]): tuple(map(str, table["columns"])) for table in data["tables"]},
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, DunwellError):
        raise damaged("format", "The first line is incomplete.", line=1) from None


class Checker:
    """Reads a file line by line, tells what each line is, and at the end whether the file is whole."""

    def __init__(self) -> None:
        self.header: Header | None = None
        self.sums: dict[str, TableSum] = {}
        self._order: list[str] = []
        self._current = -1
        self._line = 0
        self._finished = False

    def rows(self, lines: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """The table and the row's JSON of each line that is one. Lines come whole, each with its line feed. IMPORT_DAMAGED."""
        for line in lines:
            self._line += 1
            if not line.endswith(b"\n"):
                raise damaged(
                    "truncated", f"The file ends within line {self._line}: it was cut short.", line=self._line
                )
            if self._finished:
                raise damaged("format", f"Line {self._line} stands behind the manifest.", line=self._line)
            if self.header is None:
                self.header = read_header(line)
                self._order = list(self.header.tables)
                self.sums = {name: TableSum(name) for name in self._order}
            elif line.startswith(b'{"manifest":'):
                self._finish(line)
            else:
                yield self._row(line)

    def end(self) -> None:
        """The file has ended. IMPORT_DAMAGED unless its last line was the manifest."""
        if not self._finished:
            raise damaged(
                "truncated",
                f"The file ends at line {self._line} without its manifest: it was cut short.",
                line=self._line,
            )

    def _row(self, line: bytes) -> tuple[str, bytes]:
        name = self._order[self._current] if self._current >= 0 else ""
        prefix = prefix_of(name)
        if not name or not line.startswith(prefix):
            name = self._next_table(line)
            prefix = prefix_of(name)
        if not line.endswith(b"}}\n"):
            raise damaged("format", f"Line {self._line} is not a whole row of {name}.", table=name, line=self._line)
        try:
            line.decode()
        except UnicodeDecodeError:
            raise damaged("format", f"Line {self._line} is not UTF-8.", table=name, line=self._line) from None
        self.sums[name].add(line, 1)
        return name, line[len(prefix) : -2]

    def _next_table(self, line: bytes) -> str:
        for position in range(self._current + 1, len(self._order)):
            if line.startswith(prefix_of(self._order[position])):
                self._current = position
                return self._order[position]
        raise damaged("format", f"Line {self._line} is no row of a table that may come here.", line=self._line)

    def _finish(self, line: bytes) -> None:
        try:
            told = {
                str(each["name"]): (int(each["rows"]), str(each["sha256"]))
                for each in json.loads(line)["manifest"]["tables"]
            }
        except (ValueError, KeyError, TypeError, RecursionError):
            raise damaged("format", "The manifest cannot be read.", line=self._line) from None
        if list(told) != self._order:
            raise damaged("manifest", "The manifest names other tables than the first line.", line=self._line)
        for name, (rows, digest) in told.items():
            found = self.sums[name]
            if found.rows != rows:
                message = f"Table {name} has {found.rows} rows in the file, {rows} in its manifest."
                raise damaged("row_count", message, table=name)
            if found.digest != digest:
                raise damaged(
                    "checksum",
                    f"The rows of table {name} are not those of the manifest: its checksum differs.",
                    table=name,
                )
        self._finished = True
