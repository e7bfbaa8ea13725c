"""Addresses, colours and logos."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from dunwell_server.billing.documents.formats import formats_for
from dunwell_server.billing.documents.parties import DEFAULT_COLOR, address_lines, branding, logo_of, readable
from tests.unit.billing.documents.samples import firm, png

STREET = ["1 High Street"]


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        (
            {"lines": STREET, "city": "Boston", "region": "MA", "postal_code": "02108", "country_code": "US"},
            ("1 High Street", "Boston, MA 02108", "United States"),
        ),
        ({"lines": STREET, "city": "Köln", "postal_code": "50667", "country_code": "DE"}, ("1 High Street", "50667 Köln", "Germany")),
        (
            {"lines": ["丸の内1-1-1"], "city": "千代田区", "region": "東京都", "postal_code": "100-0005", "country_code": "JP"},
            ("〒100-0005", "東京都千代田区", "丸の内1-1-1", "Japan"),
        ),
        ({"city": "Galway"}, ("Galway",)),
        ({"country_code": "XX"}, ("XX",)),
        ({}, ()),
        (None, ()),
    ],
)  # fmt: skip
def test_addresses_are_in_the_order_of_their_country(address: dict[str, Any] | None, lines: tuple[str, ...]) -> None:
    assert address_lines(address, formats_for("en")) == lines


def test_a_light_colour_is_darkened_until_it_can_be_read() -> None:
    assert readable("#123456") == "#123456"
    light = readable("#ffe600")
    assert light != "#ffe600"
    assert int(light[1:3], 16) >= int(light[3:5], 16) > int(light[5:7], 16)
    assert readable("#ffffff") == readable(readable("#ffffff"))


def test_what_is_no_colour_is_the_default() -> None:
    for wrong in ("red", "#12345", '#123456"><script>', "", "#123456\n"):
        assert branding(firm(branding={"color": wrong})).color == DEFAULT_COLOR


def _jpeg(width: int, height: int) -> bytes:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, height, width, 1) + b"\x01\x11\x00"
    return b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0" + bytes(9) + frame + b"\xff\xd9"


def test_logos_are_pictures_of_an_acceptable_size() -> None:
    def encoded(content: bytes) -> str:
        return base64.b64encode(content).decode()

    logo = logo_of(encoded(png(240, 80, (1, 2, 3))))
    assert logo is not None
    assert (logo.media_type, logo.width, logo.height) == ("image/png", 240, 80)
    jpeg = logo_of(encoded(_jpeg(300, 90)))
    assert jpeg is not None
    assert (jpeg.media_type, jpeg.width, jpeg.height) == ("image/jpeg", 300, 90)
    huge = png(1, 1, (0, 0, 0)).replace(struct.pack(">II", 1, 1), struct.pack(">II", 60_000, 60_000))
    for wrong in (huge, b"<svg onload='x'/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b""):
        assert logo_of(encoded(wrong)) is None
    assert logo_of("no base64!") is None
