"""Options that several commands have."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Compute everything, change nothing.")]
OneFirm = Annotated[
    str | None, typer.Option("--firm-id", metavar="FIRM", help="Only this firm; otherwise all of them.")
]

AsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of", formats=["%Y-%m-%d"], metavar="DATE", help="As of the end of this day. Default: as things are now."
    ),
]
OneCurrency = Annotated[str | None, typer.Option("--currency", metavar="CODE", help="Only this currency.")]
ConvertTo = Annotated[
    str | None,
    typer.Option(
        "--convert-to",
        metavar="CODE",
        help="Convert to this currency too, with the firm's exchange rates; in CSV as rows of their own, marked in the last column.",
    ),
]
CsvFile = Annotated[
    str | None, typer.Option("--csv", metavar="FILE", help="Write CSV, in major units; - for standard output.")
]
SvgFile = Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw it, as SVG.")]
PngFile = Annotated[Path | None, typer.Option("--png", metavar="FILE", help="Draw it, as PNG.")]
