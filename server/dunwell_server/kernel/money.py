"""Money: integer counts of a currency's minor unit. Never a float, never a hard-coded hundred.

Unit prices and quantities may be finer than a minor unit and are Decimals in the currency's *major* unit
("249.95" USD). Each line is rounded once, half away from zero, so that a reversal cancels its original exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal, DecimalException, Inexact, InvalidOperation
from fractions import Fraction
from typing import Final

from dunwell_server.kernel.errors import DunwellError, Reason

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)

# ISO 4217, list one (active codes), by number of decimals of the minor unit. Codes without a minor unit (gold, SDR,
# testing, "no currency") are left out on purpose: nothing can be billed in them.
_CODES_BY_EXPONENT: Final[dict[int, str]] = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: """
        AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
        CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF
        IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK
        MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP
        SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG
        YER ZAR ZMW ZWG
    """,
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
# Withdrawn since 2020, kept so that a firm's older invoices can still be imported and read.
_WITHDRAWN: Final = "ANG BGN CUC HRK SLL ZWL"

_EXPONENTS: Final[dict[str, int]] = {
    code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()
} | dict.fromkeys(_WITHDRAWN.split(), 2)

# Wide enough for the exact product of two 60-digit operands; a wider one is refused (Inexact) instead of rounded twice.
_EXACT: Final = Context(
    prec=120, rounding=ROUND_HALF_UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Inexact, InvalidOperation]
)
# 10**19 exceeds int64: anything larger is out of range without expanding it to an integer.
_MAX_ADJUSTED: Final = 18
# Below this order of magnitude nothing times a fraction or a few powers of ten can reach half a minor unit.
_NEGLIGIBLE_ADJUSTED: Final = -40


def is_currency(code: str) -> bool:
    """Whether ``code`` is an ISO 4217 code (upper case) with a minor unit."""
    return code in _EXPONENTS


def known_currency(code: str, field: str = "currency_code") -> str:
    """Return ``code`` if something can be billed in it, else raise UNKNOWN_CURRENCY naming ``field``."""
    if is_currency(code):
        return code
    raise DunwellError(
        Reason.UNKNOWN_CURRENCY,
        f"{code[:8]!r} is not an ISO 4217 currency code that can be billed in",
        field=field,
        metadata={"currency_code": code[:8]},
    )


def exponent(currency: str) -> int:
    """Decimals of the currency's minor unit: 2 for USD, 0 for JPY, 3 for KWD. Raises UNKNOWN_CURRENCY."""
    return _EXPONENTS[known_currency(currency)]


def check_int64(value: int, field: str = "amount_minor") -> int:
    """Return ``value`` if it fits a signed 64-bit integer, else raise AMOUNT_OUT_OF_RANGE naming ``field``."""
    if INT64_MIN <= value <= INT64_MAX:
        return value
    raise _out_of_range(field)


def _out_of_range(field: str) -> DunwellError:
    return DunwellError(Reason.AMOUNT_OUT_OF_RANGE, f"{field}: the amount does not fit a 64-bit integer", field=field)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of ``minor`` units of ``currency``. Construction checks the code and the 64-bit range.

    Sums and differences of two currencies raise CURRENCY_MISMATCH.
    """

    currency: str
    minor: int

    def __post_init__(self) -> None:
        if self.currency not in _EXPONENTS:
            exponent(self.currency)
        if type(self.minor) is not int:
            raise TypeError("minor must be an int")
        if not INT64_MIN <= self.minor <= INT64_MAX:
            raise _out_of_range("amount_minor")

    @staticmethod
    def zero(currency: str) -> Money:
        """No money, in ``currency``."""
        return Money(currency, 0)

    def _same(self, other: Money) -> None:
        if self.currency != other.currency:
            raise DunwellError(
                Reason.CURRENCY_MISMATCH,
                f"cannot combine {self.currency} with {other.currency}",
                metadata={"left": self.currency, "right": other.currency},
            )

    def __add__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.currency, self.minor + other.minor)

    def __sub__(self, other: Money) -> Money:
        self._same(other)
        return Money(self.currency, self.minor - other.minor)

    def __neg__(self) -> Money:
        return Money(self.currency, -self.minor)


def round_ratio(numerator: int, denominator: int) -> int:
    """The integer nearest to numerator/denominator, ties away from zero. ``denominator`` must be positive."""
    if numerator >= 0:
        return (2 * numerator + denominator) // (2 * denominator)
    return -((denominator - 2 * numerator) // (2 * denominator))


def round_half_away(value: Decimal | Fraction) -> int:
    """The nearest integer, ties away from zero; exact whatever the ambient Decimal context.

    Raises AMOUNT_OUT_OF_RANGE if ``value`` is not finite or the result would not fit 64 bits.
    """
    if isinstance(value, Fraction):
        return check_int64(round_ratio(value.numerator, value.denominator), "amount")
    return _round_decimal(value, "amount")


def _round_decimal(value: Decimal, field: str) -> int:
    if not value.is_finite() or (value and value.adjusted() > _MAX_ADJUSTED):
        raise _out_of_range(field)
    if not value:
        return 0
    return check_int64(int(value.to_integral_value(ROUND_HALF_UP, _EXACT)), field)


def exact_minor(unit_price: Decimal, quantity: Decimal, digits: int) -> Decimal:
    """``unit_price`` × ``quantity`` × 10**``digits``, not rounded.

    Raises AMOUNT_OUT_OF_RANGE if a factor is not finite, the product needs more than 120 digits, or it exceeds 64 bits.
    """
    try:
        product = _EXACT.scaleb(_EXACT.multiply(unit_price, quantity), digits)
    except DecimalException:
        raise _out_of_range("amount") from None
    if not product.is_finite() or (product and product.adjusted() > _MAX_ADJUSTED):
        raise _out_of_range("amount")
    return product


def line_amount(unit_price: Decimal, quantity: Decimal, currency: str) -> int:
    """Minor units of a line: ``unit_price`` (major units) × ``quantity``, rounded once, half away from zero.

    Raises UNKNOWN_CURRENCY, or AMOUNT_OUT_OF_RANGE if the result does not fit 64 bits.
    """
    return _round_decimal(exact_minor(unit_price, quantity, exponent(currency)), "amount")


def fraction_of_exact(product: Decimal, numerator: int, denominator: int) -> int:
    """``product`` × numerator/denominator, rounded once, half away from zero. For ratios between 0 and 1."""
    if numerator == denominator:
        return _round_decimal(product, "amount")
    if not numerator or not product or product.adjusted() < _NEGLIGIBLE_ADJUSTED:
        return 0
    top, bottom = product.as_integer_ratio()
    return check_int64(round_ratio(top * numerator, bottom * denominator), "amount")


def distribute(total_minor: int, weights: Sequence[int]) -> list[int]:
    """Split ``total_minor`` in proportion to ``weights`` by largest remainder; the parts always sum to the total.

    Ties go to the earlier position. Negating the total, or every weight, negates or keeps every part. A zero weight
    gets nothing, unless all are zero: then the parts are as equal as can be. Weights of both signs are allowed (a
    discount line among charges); if they cancel to zero their magnitudes count. Raises ValueError for a non-zero total
    over no weights.
    """
    count = len(weights)
    if count == 1:
        return [total_minor]
    if count == 0:
        if total_minor:
            raise ValueError("cannot distribute an amount over nothing")
        return []
    whole = sum(weights)
    if whole < 0:
        weights, whole = [-weight for weight in weights], -whole
    elif whole == 0:
        weights = [abs(weight) for weight in weights]
        whole = sum(weights)
        if whole == 0:
            weights, whole = [1] * count, count
    size = -total_minor if total_minor < 0 else total_minor
    shares: list[int] = []
    remainders: list[int] = []
    left = size
    for weight in weights:
        share, remainder = divmod(size * weight, whole)
        shares.append(share)
        remainders.append(remainder)
        left -= share
    if left:
        # The sort is stable, so among equal remainders the earlier position comes first.
        for position in sorted(range(count), key=remainders.__getitem__, reverse=True)[:left]:
            shares[position] += 1
    return [-share for share in shares] if total_minor < 0 else shares


def to_major(minor: int, currency: str) -> Decimal:
    """Minor units as an exact Decimal in major units, with the currency's decimals: (123450, "USD") is 1234.50."""
    return _EXACT.scaleb(Decimal(minor), -exponent(currency))


def from_major(amount: Decimal, currency: str, field: str = "amount") -> int:
    """Major units as minor units, exactly.

    Raises FIELD_INVALID naming ``field`` if the amount is finer than a minor unit, AMOUNT_OUT_OF_RANGE if too large.
    """
    if not amount.is_finite():
        raise _out_of_range(field)
    scaled = exact_minor(amount, Decimal(1), exponent(currency))
    minor = _round_decimal(scaled, field)
    if scaled != minor:
        raise DunwellError(
            Reason.FIELD_INVALID, f"{field}: the amount has more decimals than {currency} allows", field=field
        )
    return minor


# Regions that group digits as 12,34,567.
_LAKH_REGIONS: Final = frozenset({"IN", "PK", "BD", "NP", "LK"})


def format_money(money: Money, locale_hint: str | None = None) -> str:
    """Plain text for terminals and logs: ``USD 1,234.50``, ``JPY -5``, with a South Asian hint ``INR 1,23,456.00``.

    ``locale_hint`` ("en_IN") only chooses the grouping of digits; documents for people are formatted elsewhere.
    """
    digits = exponent(money.currency)
    whole, part = divmod(abs(money.minor), 10**digits)
    region = locale_hint.replace("-", "_").rpartition("_")[2].upper() if locale_hint else ""
    text = _group_lakh(whole) if region in _LAKH_REGIONS else f"{whole:,}"
    sign = "-" if money.minor < 0 else ""
    return f"{money.currency} {sign}{text}.{part:0{digits}d}" if digits else f"{money.currency} {sign}{text}"


def _group_lakh(whole: int) -> str:
    text = str(whole)
    head, tail = text[:-3], text[-3:]
    if not head:
        return tail
    first = len(head) % 2
    groups = ([head[:first]] if first else []) + [head[i : i + 2] for i in range(first, len(head), 2)]
    return ",".join([*groups, tail])
