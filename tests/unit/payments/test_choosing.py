"""Which of a client's methods is charged."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.payments.choosing import best_at, choose, next_backup
from dunwell_server.payments.model import MethodState, PaymentMethod

AT = datetime(2026, 3, 1, tzinfo=UTC)


def method(
    n: int, state: MethodState = MethodState.ACTIVE, backup: int = 0, provider: str = "sandbox"
) -> PaymentMethod:
    return PaymentMethod(
        UUID(int=n), UUID(int=99), provider, UUID(int=98), "TEST", f"pm_{n}", "CARD", "visa", "4242", 12, 2039, f"fp_{n}", "US", state,
        None, backup, {}, None, None, 1, AT, AT,
    )  # fmt: skip


def ids(*numbers: int) -> list[UUID]:
    return [UUID(int=n) for n in numbers]


def test_the_invoices_own_before_the_default_before_backups_in_order() -> None:
    own, default, second, first, plain = method(1), method(2), method(3, backup=2), method(4, backup=1), method(5)
    attached = [plain, second, first, default, own]
    assert choose(attached, own.id, default.id).method == own
    assert choose(attached, None, default.id).method == default
    assert choose([plain, second, first], own.id, default.id).method == first
    assert choose([plain], None, None).method is None


def test_a_dead_default_is_replaced_and_one_that_waits_is_not() -> None:
    backup = method(3, backup=1)
    assert choose([method(1, MethodState.DEAD), backup], None, *ids(1)).method == backup
    waiting = method(1, MethodState.NEEDS_ACTION)
    choice = choose([waiting, backup], None, waiting.id)
    assert (choice.method, choice.blocked) == (None, waiting)
    assert choose([waiting, backup, method(2)], waiting.id, *ids(2)).method == method(2)


@given(
    st.lists(st.tuples(st.sampled_from(list(MethodState)), st.integers(0, 3)), max_size=6, unique=False),
    st.sets(st.integers(1, 6)),
    st.none() | st.integers(1, 6),
)
def test_a_backup_is_usable_untried_and_the_first_of_its_kind(
    made: list[tuple[MethodState, int]], tried: set[int], default: int | None
) -> None:
    attached = [method(n, state, backup) for n, (state, backup) in enumerate(made, 1)]
    default_id = UUID(int=default) if default else None
    chosen = next_backup(attached, default_id, ids(*tried))
    free = [m for m in attached if m.usable and m.id not in ids(*tried)]
    if any(m.id == default_id for m in free):
        assert chosen is not None
        assert chosen.id == default_id
    elif backups := [m for m in free if m.backup_priority]:
        assert chosen in backups
        assert chosen is not None
        assert chosen.backup_priority == min(m.backup_priority for m in backups)
    else:
        assert chosen is None


def test_the_best_method_at_one_provider() -> None:
    here, there = method(1), method(2, provider="stripe")
    assert best_at([here, there], "stripe", None, here.id) == there
    assert best_at([here], "stripe", None, here.id) is None
    assert best_at([method(1, MethodState.DEAD), method(3)], "sandbox", None, UUID(int=1)) == method(3)
