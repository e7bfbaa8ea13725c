"""Tax ids by country; the numbers are published examples."""

from __future__ import annotations

import pytest

from dunwell_server.billing.tax_ids import country_of, invalid_tax_id


@pytest.mark.parametrize(
    ("country", "tax_id"),
    [
        ("DE", "DE136695976"), ("DE", "136 695 976"), ("FR", "FR40303265045"), ("GR", "EL094259216"), ("GR", "094259216"),
        ("IE", "IE 6433435F"), ("GB", "GB980780684"), ("IN", "27AAPFU0939F1ZV"), ("CH", "CHE-107.787.577 IVA"), ("US", "anything"),
        ("JP", "7000012050002"), ("JP", "T7000012050002"), ("JP", "T7-0000-1205-0002"),
        ("SG", "00192200M"), ("SG", "197401143C"), ("SG", "M90363008H"), ("SG", "m9-0363008-h"), ("SG", "MR-8500123-4"),
    ],
)  # fmt: skip
def test_numbers_that_can_be(country: str, tax_id: str) -> None:
    assert invalid_tax_id(country, tax_id) is None


@pytest.mark.parametrize(
    ("country", "tax_id"),
    [
        ("DE", "DE136695978"), ("DE", "FR40303265045"), ("DE", "12"), ("FR", "FR84323140391"), ("GB", "GB802311781"),
        ("IN", "27AAPFU0939F1ZW"), ("IN", "DE136695976"), ("JP", "T7000012050003"),
        ("SG", "M9036300H"), ("SG", "M90363008HX"), ("SG", "X90363008H"), ("SG", "197401143D"),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be(country: str, tax_id: str) -> None:
    assert invalid_tax_id(country, tax_id) is not None


def test_the_country_is_the_addresss_the_numbers_or_the_firms() -> None:
    assert country_of("FR", "DE136695976", "IN") == "FR"
    assert country_of("", "de 136695976", "IN") == "DE"
    assert country_of("", "EL094259216", "IN") == "GR"
    assert country_of("", "27AAPFU0939F1ZV", "IN") == "IN"
