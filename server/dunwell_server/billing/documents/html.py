"""Documents as one HTML page each, from the templates in `templates/html`. Every text is escaped; the page runs no script."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dunwell_server.billing.documents.data import Document

TEMPLATES: Final = Path(__file__).with_name("templates") / "html"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["join_lines"] = _join_lines
    environment.globals["picture"] = _picture
    return environment


def render_html(document: Document) -> bytes:
    """The document as an HTML page in UTF-8."""
    return _environment().get_template(f"{document.kind.lower()}.html").render(doc=document).encode()


async def html_of(make: Callable[[], Document]) -> bytes:
    """What `make` makes, as HTML, by a thread: a long annex takes its time."""
    return await asyncio.to_thread(lambda: render_html(make()))


def _join_lines(lines: Sequence[str]) -> Markup:
    return Markup("<br>").join(lines)


def _picture(svg: str, label: str) -> Markup:
    """An SVG picture as an image, in which no script runs."""
    encoded = base64.b64encode(svg.encode()).decode()
    return Markup('<img src="data:image/svg+xml;base64,{}" alt="{}">').format(encoded, label)
