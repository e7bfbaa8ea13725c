import os
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typeid import TypeID

from dunwell_server.kernel import clock, ids
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode, derive_uuid, encode, uuid7

prefixes = st.sampled_from(list(Prefix))


def as_version(value: int, version: int) -> UUID:
    return UUID(int=(value & ~(0xF << 76) & ~(0b11 << 62)) | version << 76 | 0b10 << 62)


uuids = st.builds(as_version, st.integers(0, 2**128 - 1), st.sampled_from([7, 8]))


@given(prefixes, uuids)
def test_round_trip(prefix: Prefix, uuid: UUID) -> None:
    text = encode(prefix, uuid)
    decoded = decode(prefix, text, "id")
    assert decoded == uuid
    assert (hash(decoded), str(decoded), decoded.version, decoded.is_safe) == (
        hash(uuid),
        str(uuid),
        uuid.version,
        uuid.is_safe,
    )


@given(uuids)
def test_the_text_is_a_typeid(uuid: UUID) -> None:
    reference = TypeID.from_string(encode(Prefix.INVOICE, uuid))
    assert reference.prefix == "inv"
    assert reference.uuid.bytes == uuid.bytes


def test_known_text() -> None:
    uuid = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert encode(Prefix.INVOICE, uuid) == "inv_01h455vb4pex5vsknk084sn02q"
    assert decode(Prefix.INVOICE, "inv_01h455vb4pex5vsknk084sn02q", "id") == uuid


@given(uuids, uuids)
def test_text_sorts_like_the_uuid(one: UUID, other: UUID) -> None:
    assert (encode(Prefix.RUN, one) < encode(Prefix.RUN, other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "inv",
        "inv_",
        "_01h455vb4pex5vsknk084sn02q",
        "01h455vb4pex5vsknk084sn02q",
        "cli_01h455vb4pex5vsknk084sn02q",
        "inv-01h455vb4pex5vsknk084sn02q",
        "INV_01h455vb4pex5vsknk084sn02q",
        "inv_01H455VB4PEX5VSKNK084SN02Q",
        "inv_01h455vb4pex5vsknk084sn02",
        "inv_01h455vb4pex5vsknk084sn02qq",
        "inv_01h455vb4pex5vsknk084sn02i",
        "inv_01h455vb4pex5vsknk084sn02ł",
        "inv_ 1h455vb4pex5vsknk084sn02q",
        "inv_81h455vb4pex5vsknk084sn02q",
        "inv__1h455vb4pex5vsknk084sn02q",
        "inv_01h455vb4pex5vsknk084sn02q\n",
        "01890a5d-ac96-774b-bcce-b302099a8057",
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(DunwellError) as error:
        decode(Prefix.INVOICE, text, "invoice_id")
    assert error.value.reason is Reason.INVALID_ID
    assert error.value.field == "invoice_id"
    assert error.value.metadata == {"field": "invoice_id", "expected_prefix": "inv"}


@pytest.mark.parametrize("uuid", [uuid4(), UUID(int=0), UUID(int=2**128 - 1), UUID(int=7 << 76)])
def test_other_versions_and_variants_are_refused(uuid: UUID) -> None:
    with pytest.raises(DunwellError):
        decode(Prefix.INVOICE, encode(Prefix.INVOICE, uuid), "id")


@given(st.text(max_size=40))
def test_no_text_breaks_decode(text: str) -> None:
    with pytest.raises(DunwellError):
        decode(Prefix.INVOICE, "inv_" + text + "u", "id")  # u is not in the alphabet


def test_uuid7_is_a_time_ordered_version_7() -> None:
    before = clock.machine_ns() // 1_000_000
    made = [uuid7() for _ in range(5000)]
    after = clock.machine_ns() // 1_000_000
    assert made == sorted(set(made))
    assert all(uuid.version == 7 and uuid.variant == "specified in RFC 4122" for uuid in made)
    assert before <= made[0].int >> 80 <= made[-1].int >> 80 <= after + 2


def test_uuid7_ascends_when_the_clock_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = uuid7()
    monkeypatch.setattr(ids, "machine_ns", lambda: 0)
    assert first < uuid7() < uuid7()


def test_a_forked_child_draws_other_random_numbers() -> None:
    uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, uuid7().bytes[-8:])
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 8) != uuid7().bytes[-8:]
    os.close(reader)
    os.close(writer)


def test_derived_ids_never_change() -> None:
    parent = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert str(derive_uuid("payment", parent, 1)) == "be3147de-62b0-8770-8ac5-a3dcf8ee7156"
    assert str(derive_uuid("run-invoice", "2026-01-01", parent, b"\x00\xff")) == "cf95040d-0db4-8ead-8f4b-da647722ec18"
    assert str(derive_uuid()) == "e3b0c442-98fc-8c14-9afb-f4c8996fb924"
    assert derive_uuid("payment", parent, 1).version == 8
    assert derive_uuid("payment", parent, 1).variant == "specified in RFC 4122"


parts = st.lists(st.text(max_size=5) | st.integers() | st.binary(max_size=5) | uuids, max_size=4)


@given(parts, parts)
def test_different_parts_derive_different_ids(
    one: list[str | int | bytes | UUID], other: list[str | int | bytes | UUID]
) -> None:
    same = [(type(part), part) for part in one] == [(type(part), part) for part in other]
    assert (derive_uuid(*one) == derive_uuid(*other)) == same


def test_parts_do_not_run_together() -> None:
    assert len({derive_uuid("ab", "c"), derive_uuid("a", "bc"), derive_uuid("abc"), derive_uuid(b"abc")}) == 4
    assert derive_uuid("1") != derive_uuid(1)


@pytest.mark.parametrize("part", [True, 1.0, None, datetime(2024, 1, 1, tzinfo=UTC)])
def test_other_kinds_of_parts_are_refused(part: object) -> None:
    with pytest.raises(TypeError):
        derive_uuid(part)  # type: ignore[arg-type]


def test_prefixes_are_distinct_and_short() -> None:
    assert len({prefix.value for prefix in Prefix}) == len(Prefix.__members__)
    assert all(prefix.value.isalpha() and prefix.value.islower() and len(prefix.value) <= 4 for prefix in Prefix)
