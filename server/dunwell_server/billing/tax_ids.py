"""Whether a tax registration number is one: its form and its check digits, by country. Pure; no register is asked."""

from __future__ import annotations

import re
from typing import Any, Final

from stdnum import get_cc_module
from stdnum.eu import vat as eu_vat
from stdnum.exceptions import ValidationError
from stdnum.in_ import gstin

EU_COUNTRIES: Final = frozenset({
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL",
    "PT", "RO", "SE", "SI", "SK",
})  # fmt: skip
"""The member states, by ISO 3166-1 alpha-2 code."""
_PREFIXES: Final = {"GR": "EL"}
"""What a VAT number begins with where that is not the country's code."""
_SG_GST: Final = re.compile(r"M[0-9A-Z]-?[0-9]{7}-?[0-9A-Z]")
"""GST numbers of Singapore other than a company's UEN, as M90363008H and MR-8500123-4; how their last character is made is not published."""


def invalid_tax_id(country_code: str, tax_id: str) -> str | None:
    """What is wrong with a tax id of a country; None: nothing, or nothing is known of that country's numbers.

    EU VAT numbers may be given with or without their prefix; a number of another member state is wrong.
    """
    number = "".join(tax_id.split()).upper()
    if country_code in EU_COUNTRIES:
        prefix = _PREFIXES.get(country_code, country_code)
        kind, wanted = f"a VAT number of {country_code}", number if number.startswith(prefix) else prefix + number
        return None if _is_valid(eu_vat, wanted) else f"is not {kind}"
    if country_code == "IN":
        return None if _is_valid(gstin, number) else "is not a GSTIN"
    module = get_cc_module(country_code.lower(), "vat") if country_code else None
    if module is None:
        return None
    if country_code == "SG" and _SG_GST.fullmatch(number):
        return None
    if country_code == "JP":
        # On invoices the corporate number is preceded by the letter of qualified issuers.
        number = number.removeprefix("T")
    return None if _is_valid(module, number) else f"is not a VAT number of {country_code}"


def country_of(country_code: str, tax_id: str, otherwise: str) -> str:
    """The country that a tax id is to be checked by: that of the address; else what the number itself says; else `otherwise`."""
    if country_code:
        return country_code
    prefix = tax_id.strip()[:2].upper()
    said = {"EL": "GR"}.get(prefix, prefix)
    return said if said in EU_COUNTRIES or said == "GB" else otherwise


def _is_valid(module: Any, number: str) -> bool:
    try:
        module.validate(number)
    except ValidationError:
        return False
    return True
