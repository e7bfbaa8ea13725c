from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.ids import Prefix, derive_uuid, encode
from dunwell_server.kernel.luhn import contains_card_number, passes_luhn

# Published test numbers of the networks.
CARDS = [
    "4242424242424242",
    "4111111111111111",
    "4222222222222",
    "4000000000000000006",
    "5555555555554444",
    "2223003122003222",
    "2720990000000007",
    "378282246310005",
    "371449635398431",
    "30569309025904",
    "38520000023237",
    "3530111333300000",
    "6011111111111117",
    "6200000000000005",
    "6759649826438453",
    "6521111111111110",
    "2200000000000004",
]


@pytest.mark.parametrize("card", CARDS)
def test_card_numbers_are_found(card: str) -> None:
    assert passes_luhn(card)
    for text in (
        card,
        f"card {card}.",
        f"PAN:{card};exp 12/27",
        f"x{card}y",
        " ".join(card[i : i + 4] for i in range(0, len(card), 4)),
        "-".join(card[i : i + 4] for i in range(0, len(card), 4)),
        " ".join(card),
        f"order 17 {card} 123",
        f"{card} 12/27",
        card.translate({ord(str(digit)): chr(0x0966 + digit) for digit in range(10)}),
        "\u00a0".join(card[i : i + 4] for i in range(0, len(card), 4)),
    ):
        assert contains_card_number(text), text


@pytest.mark.parametrize("card", CARDS)
def test_one_wrong_digit_is_not_a_card_number(card: str) -> None:
    for position in range(len(card)):
        wrong = card[:position] + str((int(card[position]) + 1) % 10) + card[position + 1 :]
        assert not contains_card_number(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Invoice HV-2026-000042, thank you",
        "4242 4242 4242",
        "4242  4242  4242  4242",
        "42424242424242424242",
        "0000000000000000",
        "1763694942000",
        "+44 20 7946 0958, +49 30 901820",
        "DE89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "2026-11-21 03:00:00",
        "20261121-031500-123",
        "550e8400-e29b-41d4-4242-424242424242",
        "upi://pay?pa=dunwell@bank&am=1234.50",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert not contains_card_number(text)


@given(st.integers(0, 10**18))
def test_our_own_ids_are_left_alone(seed: int) -> None:
    assert not contains_card_number(encode(Prefix.INVOICE, derive_uuid("luhn", seed)))
    assert not contains_card_number(str(derive_uuid("luhn", seed)))


@pytest.mark.parametrize("card", CARDS)
def test_random_ids_of_providers_are_left_alone(card: str) -> None:
    body = f"f{card}a0b1c2d3e4f5"[:24]
    for text in (f"evt_{body}", f"seti_{body}_secret_{body}", f'{{"id": "evt_{body}"}}', f"stripe/evt_{body}"):
        assert not contains_card_number(text), text


@pytest.mark.parametrize("card", CARDS)
def test_a_prefix_alone_hides_no_card_number(card: str) -> None:
    for text in (
        f"tok_{card}",
        f"evt_{card} {card}",
        f"EVT_f{card}a0b1c2d3e4f5",
        f"evt-f{card}a0b1c2d3e4f5",
    ):
        assert contains_card_number(text), text


@given(st.text(max_size=60), st.sampled_from(CARDS), st.text(max_size=60))
def test_found_wherever_it_stands_in_words(before: str, card: str, after: str) -> None:
    assert contains_card_number(f"{before}, {card}, {after}")


@given(st.integers(10**11, 10**18))
def test_luhn_notices_every_swap_of_neighbours_but_0_and_9(body: int) -> None:
    digits = next(str(body) + str(check) for check in range(10) if passes_luhn(str(body) + str(check)))
    for position, (one, other) in enumerate(pairwise(digits)):
        swapped = digits[:position] + other + one + digits[position + 2 :]
        assert passes_luhn(swapped) == (one == other or {one, other} == {"0", "9"})


def test_long_runs_take_linear_time() -> None:
    assert not contains_card_number("0 " * 60_000)
    assert not contains_card_number("0" * 120_000)
    assert not contains_card_number("9-" * 60_000)
