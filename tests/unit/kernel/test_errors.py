from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason, field_invalid


def test_reason_values_are_their_names() -> None:
    assert all(reason.value == name for name, reason in Reason.__members__.items())
    assert len(Reason) == 64


def test_a_field_alone_is_one_violation() -> None:
    error = DunwellError(Reason.INVALID_ID, "not an id", field="invoice_id")
    assert error.violations == (FieldViolation("invoice_id", "not an id"),)
    assert str(error) == "INVALID_ID: not an id"


def test_explicit_violations_are_kept_with_the_rest() -> None:
    two = [FieldViolation("a", "wrong"), FieldViolation("b", "missing")]
    error = DunwellError(
        Reason.FIELD_INVALID,
        "two fields",
        violations=two,
        metadata={"k": "v"},
        resource=("invoice", "1"),
        retry_after=2.5,
    )
    assert error.violations == tuple(two)
    assert (error.metadata, error.resource, error.retry_after, error.field) == ({"k": "v"}, ("invoice", "1"), 2.5, None)


def test_metadata_is_copied() -> None:
    metadata = {"k": "v"}
    error = DunwellError(Reason.INTERNAL, "x", metadata=metadata)
    metadata["k"] = "changed"
    assert error.metadata == {"k": "v"}


def test_field_invalid_names_the_field() -> None:
    error = field_invalid("page_size", "too odd")
    assert (error.reason, error.field, error.message) == (Reason.FIELD_INVALID, "page_size", "too odd")
