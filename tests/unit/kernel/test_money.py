import decimal
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import (
    INT64_MAX,
    INT64_MIN,
    Money,
    check_int64,
    distribute,
    exponent,
    format_money,
    from_major,
    is_currency,
    line_amount,
    round_half_away,
    round_ratio,
    to_major,
)

amounts = st.integers(-(10**15), 10**15)
decimals = st.decimals(min_value=-(10**9), max_value=10**9, places=6)
quantities = st.decimals(min_value=-(10**4), max_value=10**4, places=4)
currencies = st.sampled_from(["USD", "JPY", "KWD", "CLF", "INR"])


def reason_of(error: pytest.ExceptionInfo[DunwellError]) -> Reason:
    return error.value.reason


# ---- currencies


@pytest.mark.parametrize(
    ("code", "digits"),
    [("USD", 2), ("INR", 2), ("JPY", 0), ("KRW", 0), ("ISK", 0), ("UGX", 0), ("KWD", 3), ("TND", 3), ("CLF", 4)],
)
def test_exponents(code: str, digits: int) -> None:
    assert exponent(code) == digits
    assert is_currency(code)


@pytest.mark.parametrize("code", ["", "usd", "XXX", "XAU", "XTS", "ZZZ", "USDT", "US"])
def test_what_is_not_a_currency(code: str) -> None:
    assert not is_currency(code)
    with pytest.raises(DunwellError) as error:
        exponent(code)
    assert reason_of(error) is Reason.UNKNOWN_CURRENCY


def test_the_table_is_whole() -> None:
    from dunwell_server.kernel import money

    sizes = {digits: len(codes.split()) for digits, codes in money._CODES_BY_EXPONENT.items()}
    assert sizes == {0: 17, 2: 139, 3: 7, 4: 2}
    assert len(money._EXPONENTS) == sum(sizes.values()) + len(money._WITHDRAWN.split()), "a code is listed twice"
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in money._EXPONENTS)


# ---- Money


def test_arithmetic() -> None:
    assert Money("USD", 5) + Money("USD", 7) == Money("USD", 12)
    assert Money("USD", 5) - Money("USD", 7) == Money("USD", -2)
    assert -Money("USD", 5) == Money("USD", -5)
    assert Money.zero("JPY") == Money("JPY", 0)


@pytest.mark.parametrize("operator", ["__add__", "__sub__"])
def test_currencies_do_not_mix(operator: str) -> None:
    with pytest.raises(DunwellError) as error:
        getattr(Money("USD", 1), operator)(Money("EUR", 1))
    assert reason_of(error) is Reason.CURRENCY_MISMATCH
    assert error.value.metadata == {"left": "USD", "right": "EUR"}


def test_construction_checks() -> None:
    with pytest.raises(DunwellError) as error:
        Money("usd", 1)
    assert reason_of(error) is Reason.UNKNOWN_CURRENCY
    with pytest.raises(DunwellError) as error:
        Money("USD", INT64_MAX + 1)
    assert reason_of(error) is Reason.AMOUNT_OUT_OF_RANGE
    with pytest.raises(TypeError):
        Money("USD", 1.0)  # type: ignore[arg-type]
    with pytest.raises(DunwellError):
        Money("USD", INT64_MAX) + Money("USD", 1)
    with pytest.raises(DunwellError):
        -Money("USD", INT64_MIN)


def test_check_int64_names_the_field() -> None:
    assert check_int64(INT64_MAX, "x") == INT64_MAX
    assert check_int64(INT64_MIN, "x") == INT64_MIN
    for value in (INT64_MAX + 1, INT64_MIN - 1):
        with pytest.raises(DunwellError) as error:
            check_int64(value, "credit.amount")
        assert (reason_of(error), error.value.field) == (Reason.AMOUNT_OUT_OF_RANGE, "credit.amount")


# ---- rounding


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.5", 1), ("-0.5", -1), ("1.5", 2), ("2.5", 3), ("-2.5", -3), ("0.49999999999999999999", 0), ("7498.5", 7499)],
)
def test_ties_go_away_from_zero(value: str, expected: int) -> None:
    assert round_half_away(Decimal(value)) == expected
    assert round_half_away(Fraction(value)) == expected


@given(st.integers(-(10**30), 10**30), st.integers(1, 10**15))
def test_rounding_is_nearest_and_symmetric(numerator: int, denominator: int) -> None:
    rounded = round_ratio(numerator, denominator)
    assert 2 * abs(rounded * denominator - numerator) <= denominator
    assert round_ratio(-numerator, denominator) == -rounded
    if 2 * abs(rounded * denominator - numerator) == denominator:
        assert abs(rounded) * denominator > abs(numerator)


@given(decimals)
def test_decimal_and_fraction_round_alike(value: Decimal) -> None:
    assert round_half_away(value) == round_half_away(Fraction(value))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1E+999999", "9223372036854775807.5"])
def test_rounding_refuses_what_does_not_fit(text: str) -> None:
    with pytest.raises(DunwellError) as error:
        round_half_away(Decimal(text))
    assert reason_of(error) is Reason.AMOUNT_OUT_OF_RANGE


# ---- lines


@pytest.mark.parametrize(
    ("price", "quantity", "currency", "expected"),
    [
        ("249.95", "1", "USD", 24995),
        ("0.005", "1", "USD", 1),
        ("-0.005", "1", "USD", -1),
        ("0.0333", "3", "USD", 10),
        ("799", "1", "INR", 79900),
        ("100.5", "1", "JPY", 101),
        ("1.0005", "1", "KWD", 1001),
        ("0.00005", "1", "CLF", 1),
        ("0E+500", "1", "USD", 0),
        ("1E-400000", "1", "USD", 0),
        ("92233720368547758.07", "1", "USD", INT64_MAX),
    ],
)
def test_line_amount(price: str, quantity: str, currency: str, expected: int) -> None:
    assert line_amount(Decimal(price), Decimal(quantity), currency) == expected


@given(decimals, quantities, currencies)
def test_line_amount_is_the_exact_product_rounded_once(price: Decimal, quantity: Decimal, currency: str) -> None:
    exact = Fraction(price) * Fraction(quantity) * 10 ** exponent(currency)
    amount = line_amount(price, quantity, currency)
    assert amount == round_half_away(exact)
    assert line_amount(-price, quantity, currency) == -amount
    assert line_amount(price, -quantity, currency) == -amount


def test_the_ambient_context_does_not_matter() -> None:
    price, quantity = Decimal("12345678.12345678"), Decimal("9.87654321")
    expected = round_half_away(Fraction(price) * Fraction(quantity) * 100)
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_DOWN)):
        assert line_amount(price, quantity, "USD") == expected
        assert to_major(123456789, "USD") == Decimal("1234567.89")
        assert from_major(Decimal("1234567.89"), "USD") == 123456789


@pytest.mark.parametrize(
    ("price", "quantity"),
    [
        ("92233720368547758.08", "1"),
        ("-92233720368547758.09", "1"),
        ("1E+900000", "1E+900000"),
        ("NaN", "1"),
        ("sNaN", "1"),
        ("1", "Infinity"),
        ("0", "Infinity"),
        ("1." + "1" * 100, "1." + "1" * 100),
    ],
)
def test_line_amount_refuses_what_does_not_fit(price: str, quantity: str) -> None:
    with pytest.raises(DunwellError) as error:
        line_amount(Decimal(price), Decimal(quantity), "USD")
    assert reason_of(error) is Reason.AMOUNT_OUT_OF_RANGE


@given(st.integers(INT64_MIN, INT64_MAX), currencies)
def test_major_and_back(minor: int, currency: str) -> None:
    major = to_major(minor, currency)
    assert from_major(major, currency) == minor
    assert -int(major.as_tuple().exponent) == exponent(currency)


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("1.005", "USD", Reason.FIELD_INVALID),
        ("0.5", "JPY", Reason.FIELD_INVALID),
        ("1E+30", "USD", Reason.AMOUNT_OUT_OF_RANGE),
        ("NaN", "USD", Reason.AMOUNT_OUT_OF_RANGE),
    ],
)
def test_from_major_is_exact_or_refuses(text: str, currency: str, reason: Reason) -> None:
    with pytest.raises(DunwellError) as error:
        from_major(Decimal(text), currency, "fee")
    assert reason_of(error) is reason


# ---- distribution

weight_lists = st.lists(st.integers(0, 10**9), min_size=1, max_size=40)
signed_weights = st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=20)


@given(amounts, signed_weights)
def test_parts_always_add_up(total: int, weights: Sequence[int]) -> None:
    parts = distribute(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    assert distribute(-total, weights) == [-part for part in parts]
    assert distribute(total, [-weight for weight in weights]) == parts


@given(amounts, weight_lists.filter(any))
def test_each_part_is_its_quota_rounded_up_or_down(total: int, weights: Sequence[int]) -> None:
    whole = sum(weights)
    for part, weight in zip(distribute(total, weights), weights, strict=True):
        assert abs(part - Fraction(total * weight, whole)) < 1
        if weight == 0 and len(weights) > 1:
            assert part == 0


@given(weight_lists.filter(any), st.data())
def test_no_part_exceeds_its_line(lines: list[int], data: st.DataObject) -> None:
    discount = data.draw(st.integers(0, sum(lines)))
    parts = distribute(discount, lines)
    assert all(0 <= part <= line for part, line in zip(parts, lines, strict=True))


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (100, [333, 333, 334], [33, 33, 34]),
        (10, [1, 1, 1], [4, 3, 3]),
        (-10, [1, 1, 1], [-4, -3, -3]),
        (2, [1, 1, 1], [1, 1, 0]),
        (7, [0, 0], [4, 3]),
        (5, [0, 1, 0], [0, 5, 0]),
        (9, [0], [9]),
        (3, [5, -5], [2, 1]),
        (10, [20, -10], [20, -10]),
        (0, [1, 2], [0, 0]),
        (0, [], []),
    ],
)
def test_distribute(total: int, weights: list[int], parts: list[int]) -> None:
    assert distribute(total, weights) == parts


def test_nothing_to_distribute_over() -> None:
    with pytest.raises(ValueError, match="nothing"):
        distribute(1, [])


# ---- text


@pytest.mark.parametrize(
    ("money", "hint", "text"),
    [
        (Money("USD", 123450), None, "USD 1,234.50"),
        (Money("USD", -5), None, "USD -0.05"),
        (Money("JPY", 1234567), None, "JPY 1,234,567"),
        (Money("KWD", 1234), None, "KWD 1.234"),
        (Money("INR", 1234567890), "en_IN", "INR 1,23,45,678.90"),
        (Money("INR", 12345678900), "hi-IN", "INR 12,34,56,789.00"),
        (Money("INR", 99900), "en_IN", "INR 999.00"),
        (Money("INR", 123456700), "en_US", "INR 1,234,567.00"),
    ],
)
def test_format_money(money: Money, hint: str | None, text: str) -> None:
    assert format_money(money, hint) == text
