"""Recognising payment card numbers in free text, so that they are refused and never stored or logged.

A card number is a run of 13 to 19 digits, single spaces, no-break spaces or dashes allowed between digits, that passes
the Luhn check and begins like a card network's numbers of that length. The last condition keeps out what free text is
full of: phone numbers, IBANs, dates, millisecond timestamps. Identifiers are exempt: UUIDs, and what providers give out,
a short lower-case prefix, an underscore and 20 or more letters and digits of both sorts ("evt_…"): in their random digits
one in some thousand reads like a card number. Digits of any script count. A longer unbroken run of digits is not a card number, but in grouped digits every sequence of whole
groups is tried, so that "4242 4242 4242 4242 123" does not hide the number before the security code.
"""

from __future__ import annotations

import re
from typing import Final

_CANDIDATE: Final = re.compile(r"\d(?:[ \u00a0-]?\d){12,}")
_SEPARATOR: Final = re.compile(r"[ \u00a0-]")
_UUID: Final = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_PROVIDER_ID: Final = re.compile(r"(?<![0-9A-Za-z])[a-z]{2,12}_(?=[0-9]*[A-Za-z])[0-9A-Za-z]{20,}(?![0-9A-Za-z])")
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

# Beginnings of the networks' numbers by length: Visa, Mastercard, American Express, Diners, JCB, Discover and the
# other 6-series (RuPay, UnionPay, Maestro), Maestro 50/56-58, RuPay 81/82/508, Mir, Troy.
_NETWORKS: Final = re.compile(
    r"""
      4(?:\d{12}|\d{15}|\d{18})
    | 5[1-5]\d{14}
    | 2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}
    | 3[47]\d{13}
    | 3(?:0[0-5]|09|[689]\d)\d{11,16}
    | 35(?:2[89]|[3-8]\d)\d{12,15}
    | 6\d{12,18}
    | 5[06-8]\d{11,17}
    | 8[12]\d{14}
    | 220[0-4]\d{12,15}
    | 9792\d{12}
    """,
    re.VERBOSE,
)


def passes_luhn(digits: str) -> bool:
    """Whether a string of ASCII digits has a correct Luhn check digit."""
    total = 0
    double = False
    for digit in reversed(digits):
        value = ord(digit) - 48
        total += _DOUBLED[value] if double else value
        double = not double
    return total % 10 == 0


def _is_card(digits: str) -> bool:
    return _NETWORKS.fullmatch(digits) is not None and passes_luhn(digits)


def contains_card_number(text: str) -> bool:
    """Whether ``text`` holds what looks like a payment card number. Linear in the length of the text."""
    if len(text) < 13 or _CANDIDATE.search(text) is None:
        return False
    for run in _CANDIDATE.findall(_PROVIDER_ID.sub(" . ", _UUID.sub(" . ", text))):
        if not run.isascii():
            run = "".join(str(int(char)) if char.isdecimal() else " " for char in run)
        groups = _SEPARATOR.split(run)
        for first, digits in enumerate(groups):
            # A number of 19 digits has at most 19 groups, which keeps the search linear.
            for group in ("", *groups[first + 1 : first + 19]):
                digits += group
                if len(digits) > 19:
                    break
                if len(digits) >= 13 and _is_card(digits):
                    return True
    return False
