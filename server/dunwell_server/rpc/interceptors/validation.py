"""Checks a request before any handler sees it: the contract's rules, unknown enum values, card numbers.

What can be known from the message's type is worked out once per type; a message without free text or open enums
costs nothing beyond protovalidate itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator, Violation

from buf.validate import validate_pb2
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.kernel.luhn import contains_card_number

_VALIDATOR: Final = Validator()
_MAX_REPORTED: Final = 100
"""More violations than this never fit into a status; the rest is only counted."""
_NO_FREE_TEXT: Final = (
    "google.type.",
    "google.protobuf.FieldMask",
    # Webhooks' headers hold signatures: one in a thousand has the digits of a card number.
    "dunwell.v1.IngestProviderEventRequest.HeadersEntry",
)
_CARD_SAMPLES: Final = ("4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242", "card 4242424242424242")

# For the quick look at the raw bytes: digits become 0, letters x, everything else is dropped. Thirteen zeros in a row
# are then necessary for a card number in ASCII digits, whatever separates them.
_KINDS: Final = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x78 for byte in range(256))
_DROPPED: Final = bytes(byte for byte in range(256) if not (byte < 0x80 and chr(byte).isalnum()))
_RUN: Final = b"0" * 13
_OTHER_DIGIT: Final = re.compile(r"[^\D0-9]")


def parse(request_type: type[Message], raw: bytes) -> Message:
    """The message in `raw`; MALFORMED_MESSAGE."""
    try:
        return request_type.FromString(raw)
    except (DecodeError, ValueError, RecursionError):
        raise DunwellError(Reason.MALFORMED_MESSAGE, "The bytes are not a message of the expected type.") from None


class RequestValidator:
    """The checks of one request type."""

    __slots__ = ("_enums", "_texts")

    def __init__(self, request: Any) -> None:
        self._enums = _Walk.of(request, _is_open_enum)
        self._texts = _Walk.of(request, _is_free_text)
        # Compiles the type's rules now: milliseconds that no call has to wait for, and a rule that does not compile
        # stops the start.
        _VALIDATOR.collect_violations(GetMessageClass(request)())

    def check(self, message: Message, raw: bytes) -> None:
        """FIELD_INVALID with every violation, or CARD_NUMBER_REFUSED."""
        violations = _VALIDATOR.collect_violations(message)
        if violations:
            reported = [_field_violation(message, violation) for violation in violations[:_MAX_REPORTED]]
            raise _invalid(reported, len(violations))
        if self._enums is not None:
            unknown = [
                FieldViolation(_safe(path), "not a value of the enum")
                for path, field, value in self._enums.values(message, "")
                if field.enum_type is not None and value not in field.enum_type.values_by_number
            ]
            if unknown:
                raise _invalid(unknown, len(unknown))
        if self._texts is not None and may_hold_card_number(raw):
            self._refuse_cards(self._texts, message)

    @staticmethod
    def _refuse_cards(texts: _Walk, message: Message) -> None:
        for path, _, value in texts.values(message, ""):
            if contains_card_number(value):
                raise DunwellError(
                    Reason.CARD_NUMBER_REFUSED,
                    "looks like a payment card number, which this service never takes",
                    field=_safe(path),
                    metadata={"field": _safe(path)},
                )


def may_hold_card_number(raw: bytes) -> bool:
    """A quick look at serialised bytes: False only if no text in them holds a card number.

    Digits of other scripts are beyond its sight, so bytes that may be such text always need the slow look.
    """
    return _RUN in raw.translate(_KINDS, _DROPPED) or (not raw.isascii() and _other_digits(raw))


def _other_digits(raw: bytes) -> bool:
    return _OTHER_DIGIT.search(raw.decode("utf-8", "ignore")) is not None


def _invalid(violations: list[FieldViolation], total: int) -> DunwellError:
    first = violations[0]
    more = f" (and {total - 1} more)" if total > 1 else ""
    # Those beyond the reported ones only have to be counted; the status is cut long before.
    violations.extend([FieldViolation("", "")] * (total - len(violations)))
    return DunwellError(
        Reason.FIELD_INVALID,
        f"{first.field}: {first.description}{more}",
        violations=violations,
        metadata={"violations": str(total)},
    )


def _field_violation(message: Any, violation: Violation) -> FieldViolation:
    proto = violation.proto
    path, inside = "", message.DESCRIPTOR
    for element in proto.field.elements if proto.field else ():
        path += f".{element.field_name}" if path else element.field_name
        field = inside.fields_by_name.get(element.field_name) if inside is not None else None
        inside = None if field is None else field.message_type
        if element.subscript is not None:
            key = element.subscript.value
            path += f'["{key}"]' if isinstance(key, str) else f"[{key}]"
    path = ".".join(filter(None, (path, _named(inside, proto.rule_id))))
    return FieldViolation(_safe(path), proto.message or proto.rule_id)


def _named(descriptor: Any, rule_id: str) -> str:
    """The path within a message that the id of one of its rules begins with: `package.fee` of `package.fee.required`.

    So a rule about a message as a whole tells which of its fields is wrong. Empty where the id names none.
    """
    names: list[str] = []
    for name in rule_id.split(".")[:-1]:
        field = None if descriptor is None else descriptor.fields_by_name.get(name)
        if field is None:
            return ""
        names.append(name)
        descriptor = field.message_type
    return ".".join(names)


def _safe(path: str) -> str:
    """A map's key is the caller's text and part of the path: a card number there is not sent around either."""
    return re.sub(r'\["[^"]*"\]', '["…"]', path) if contains_card_number(path) else path


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules | None:
    options = field.GetOptions()
    return options.Extensions[validate_pb2.field] if options.HasExtension(validate_pb2.field) else None


def _is_open_enum(field: FieldDescriptor, rules: validate_pb2.FieldRules | None) -> bool:
    if field.type != FieldDescriptor.TYPE_ENUM:
        return False
    guarded = rules is not None and (rules.enum.defined_only or rules.repeated.items.enum.defined_only)
    return not guarded


def _is_free_text(field: Any, rules: validate_pb2.FieldRules | None) -> bool:
    """A string whose own rules do not keep card numbers out."""
    if field.type != FieldDescriptor.TYPE_STRING or field.containing_type.full_name.startswith(_NO_FREE_TEXT):
        return False
    if rules is None:
        return True
    text = rules.repeated.items.string if rules.HasField("repeated") else rules.string
    if text.uuid:
        return False
    try:
        return not text.pattern or any(re.search(text.pattern, sample) for sample in _CARD_SAMPLES)
    except re.error:  # RE2 knows what Python does not
        return True


class _Walk:
    """A way through messages of one type to all fields of a kind, through sub-messages, lists and maps."""

    __slots__ = ("_fields", "_messages")

    def __init__(self) -> None:
        self._fields: list[tuple[FieldDescriptor, bool]] = []
        self._messages: list[tuple[FieldDescriptor, _Walk]] = []

    @classmethod
    def of(cls, root: Any, wanted: Any) -> _Walk | None:
        """The walk from `root` to the fields that `wanted(field, rules)` names; None where there are none."""
        known: dict[str, _Walk] = {}
        walk = cls._build(root, wanted, known)
        useful: set[int] = set()
        while more := {
            id(part)
            for part in known.values()
            if id(part) not in useful and (part._fields or any(id(below) in useful for _, below in part._messages))
        }:
            useful |= more
        for part in known.values():
            part._messages = [(field, below) for field, below in part._messages if id(below) in useful]
        return walk if id(walk) in useful else None

    @classmethod
    def _build(cls, descriptor: Any, wanted: Any, known: dict[str, _Walk]) -> _Walk:
        if descriptor.full_name in known:
            return known[descriptor.full_name]
        walk = known[descriptor.full_name] = cls()
        for field in descriptor.fields:
            if wanted(field, _rules(field)):
                walk._fields.append((field, field.is_repeated))
            if field.message_type is not None:
                walk._messages.append((field, cls._build(field.message_type, wanted, known)))
        return walk

    def values(self, message: Any, path: str) -> Iterator[tuple[str, FieldDescriptor, Any]]:
        """Every value of a wanted field, with its path."""
        for field, repeated in self._fields:
            name = f"{path}.{field.name}" if path else field.name
            value = getattr(message, field.name)
            if not repeated:
                if value:
                    yield name, field, value
                continue
            for index, item in enumerate(value):
                yield f"{name}[{index}]", field, item
        for field, walk in self._messages:
            name = f"{path}.{field.name}" if path else field.name
            yield from walk._below(message, field, name)

    def _below(self, message: Any, field: Any, name: str) -> Iterator[tuple[str, FieldDescriptor, Any]]:
        if field.message_type.GetOptions().map_entry:
            entries: Mapping[Any, Any] = getattr(message, field.name)
            for key, value in entries.items():
                yield from self._entry(key, value, f'{name}["{key}"]')
        elif field.is_repeated:
            for index, item in enumerate(getattr(message, field.name)):
                yield from self.values(item, f"{name}[{index}]")
        elif message.HasField(field.name):
            yield from self.values(getattr(message, field.name), name)

    def _entry(self, key: Any, value: Any, name: str) -> Iterator[tuple[str, FieldDescriptor, Any]]:
        for field, _ in self._fields:
            yield name, field, key if field.name == "key" else value
        for _, walk in self._messages:
            yield from walk.values(value, name)
