from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.paging import PageToken, SortValue, filter_hash, page_size

KEY = b"0123456789abcdef0123456789abcdef"
FILTER = filter_hash("ListInvoices", UUID(int=7), b"\x0a\x03abc")

values = st.lists(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.dates()
    | st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
    | st.uuids(),
    max_size=4,
).map(tuple)


@given(values)
def test_round_trip(sort_values: tuple[SortValue, ...]) -> None:
    token = PageToken(sort_values, FILTER)
    text = token.encode(KEY)
    decoded = PageToken.decode(text, KEY, FILTER)
    assert decoded == token
    assert [type(value) for value in decoded.values] == [type(value) for value in sort_values]
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_an_instant_keeps_its_moment() -> None:
    instant = datetime(2024, 1, 1, 5, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    token = PageToken.decode(PageToken((instant,), FILTER).encode(KEY), KEY, FILTER)
    assert token.values == (datetime(2024, 1, 1, 0, 0, 0, 123456, tzinfo=UTC),)


def test_every_changed_character_is_noticed() -> None:
    text = PageToken((datetime(2024, 1, 1, tzinfo=UTC), Decimal("1.50")), FILTER).encode(KEY)
    for position in range(len(text)):
        for char in "A_z!":
            changed = text[:position] + char + text[position + 1 :]
            if changed != text:
                with pytest.raises(DunwellError) as error:
                    PageToken.decode(changed, KEY, FILTER)
                assert error.value.reason is Reason.PAGE_TOKEN_INVALID


@pytest.mark.parametrize("text", ["", "x", "not a token", "ł", "A" * 100, "A" * 10_000, "===="])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DunwellError) as error:
        PageToken.decode(text, KEY, FILTER)
    assert error.value.reason is Reason.PAGE_TOKEN_INVALID


def test_decoration_is_refused() -> None:
    text = PageToken((1,), FILTER).encode(KEY)
    for changed in (text + "=", text + "!", " " + text, text[:4] + "\n" + text[4:]):
        with pytest.raises(DunwellError):
            PageToken.decode(changed, KEY, FILTER)


def test_another_key_is_refused() -> None:
    with pytest.raises(DunwellError) as error:
        PageToken.decode(PageToken((1,), FILTER).encode(b"other"), KEY, FILTER)
    assert error.value.reason is Reason.PAGE_TOKEN_INVALID


def test_another_filter_is_a_mismatch() -> None:
    with pytest.raises(DunwellError) as error:
        PageToken.decode(PageToken((1,), FILTER).encode(KEY), KEY, filter_hash("ListInvoices", UUID(int=8)))
    assert (error.value.reason, error.value.field) == (Reason.PAGE_TOKEN_MISMATCH, "page_token")


def test_filter_hash_tells_filters_apart() -> None:
    assert len({filter_hash("a", "b"), filter_hash("ab"), filter_hash("a", b"b"), filter_hash("a", 1)}) == 4
    assert filter_hash("a", "b") == filter_hash("a", "b")


def test_what_cannot_be_a_sort_key() -> None:
    with pytest.raises(TypeError):
        PageToken((1.5,), FILTER).encode(KEY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="time zone"):
        PageToken((datetime(2024, 1, 1),), FILTER).encode(KEY)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("requested", "expected"), [(0, 50), (1, 1), (50, 50), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)]
)
def test_page_size(requested: int, expected: int) -> None:
    assert page_size(requested) == expected


def test_page_size_limits_can_be_given() -> None:
    assert (page_size(0, default=10, maximum=20), page_size(99, default=10, maximum=20)) == (10, 20)


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(DunwellError) as error:
        page_size(-1)
    assert (error.value.reason, error.value.field) == (Reason.FIELD_INVALID, "page_size")
