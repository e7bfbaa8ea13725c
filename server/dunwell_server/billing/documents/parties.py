"""Who a document is from and to, and how the firm's documents look. Pure."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from dunwell_server.billing.documents.data import Branding, Logo, Party
from dunwell_server.billing.documents.facts import FirmFacts
from dunwell_server.billing.documents.formats import Formats
from dunwell_server.billing.model import Client

DEFAULT_COLOR: Final = "#1f3a5f"
LARGEST_LOGO: Final = 2000
"""Pixels: a small file may hold a picture that fills the memory."""
_CITY_FIRST: Final = frozenset(
    {"US", "CA", "AU", "NZ", "IN", "GB", "IE", "SG", "PK", "BD", "LK", "NP", "ZA", "KE", "NG", "AE"}
)
_COLOR: Final = re.compile(r"#[0-9A-Fa-f]{6}")
_CONTRAST: Final = 4.5
"""Least contrast with white at which text is read without effort (WCAG AA)."""


def seller(firm: FirmFacts, formats: Formats) -> Party:
    """The firm, with its registered name."""
    name = firm.details.get("legal_name") or firm.name
    lines = address_lines(firm.details.get("address"), formats)
    return Party(name, (*lines, *_tax_id(firm.details.get("tax_id"), formats)))


def buyer(client: Client, formats: Formats) -> Party:
    """The client."""
    return Party(client.name, (*address_lines(client.address, formats), *_tax_id(client.tax_id, formats)))


def address_lines(address: Mapping[str, Any] | None, formats: Formats) -> tuple[str, ...]:
    """A postal address in the order of its country; the country in the document's language."""
    if not address:
        return ()
    part = {name: str(address.get(name, "")).strip() for name in ("city", "region", "postal_code", "country_code")}
    country, street = part["country_code"], tuple(str(line) for line in address.get("lines", ()))
    name = (formats.country(country),) if country else ()
    if country == "JP":
        # From the large to the small: the street comes last.
        code = (f"〒{part['postal_code']}",) if part["postal_code"] else ()
        town = (f"{part['region']}{part['city']}",) if part["region"] or part["city"] else ()
        return (*code, *town, *street, *name)
    if country in _CITY_FIRST:
        region = " ".join(filter(None, (part["region"], part["postal_code"])))
        place = ", ".join(filter(None, (part["city"], region)))
    else:
        code_and_city = " ".join(filter(None, (part["postal_code"], part["city"])))
        place = ", ".join(filter(None, (code_and_city, part["region"])))
    return (*street, *((place,) if place else ()), *name)


def branding(firm: FirmFacts) -> Branding:
    """Colour, logo and foot of the firm's documents."""
    chosen = firm.details.get("branding") or {}
    color = str(chosen.get("color", ""))
    footer = str(chosen.get("footer", ""))
    return Branding(
        readable(color if _COLOR.fullmatch(color) else DEFAULT_COLOR),
        logo_of(str(chosen.get("logo_image", ""))),
        str(chosen.get("logo_url", "")),
        tuple(line for line in footer.splitlines() if line.strip()),
    )


def readable(color: str) -> str:
    """The colour, darkened until text in it can be read on white."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    while 1.05 / (_luminance(red, green, blue) + 0.05) < _CONTRAST:
        red, green, blue = red * 9 // 10, green * 9 // 10, blue * 9 // 10
    return f"#{red:02x}{green:02x}{blue:02x}"


def _luminance(*parts: int) -> float:
    linear = [value / 3294 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def logo_of(encoded: str) -> Logo | None:
    """The picture in base64, if it is a PNG or JPEG of an acceptable size."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    if content.startswith(b"\x89PNG\r\n\x1a\n") and content[12:16] == b"IHDR" and len(content) > 24:
        media_type, (width, height) = "image/png", struct.unpack(">II", content[16:24])
    elif content.startswith(b"\xff\xd8\xff"):
        media_type, (width, height) = "image/jpeg", _jpeg_size(content)
    else:
        return None
    if not (0 < width <= LARGEST_LOGO and 0 < height <= LARGEST_LOGO):
        return None
    text = base64.b64encode(content).decode()
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" href="data:{media_type};base64,{text}"/></svg>'
    )
    return Logo(media_type, text, width, height, svg)


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height from the frame's header; (0, 0) where there is none."""
    place = 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return width, height
        place += 2 + length
    return 0, 0


def _tax_id(tax_id: Any, formats: Formats) -> tuple[str, ...]:
    return (formats.word("head.tax_id", id=str(tax_id)),) if tax_id else ()
