"""Update masks: required, explicit, and refused path by path where a caller may not change what they name."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from dunwell.v1 import options_pb2
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason

FIELD = "update_mask"


def checked_paths(mask: FieldMask, resource: type[Message]) -> tuple[str, ...]:
    """The mask's paths in order, without repetitions; each names a field of `resource` that an update may change.

    UPDATE_MASK_INVALID naming every bad one: an empty mask, `*`, unknown paths, fields that the server sets or that
    never change, and paths that go through a list or map.
    """
    paths = tuple(dict.fromkeys(mask.paths))
    if not paths:
        raise _invalid([FieldViolation(FIELD, "name at least one field")], ())
    problems = [(path, _problem(path, resource.DESCRIPTOR)) for path in paths]
    bad = [(path, problem) for path, problem in problems if problem is not None]
    if bad:
        raise _invalid(
            [FieldViolation(FIELD, f"{path[:100]}: {problem}") for path, problem in bad], [p for p, _ in bad]
        )
    return paths


def apply_mask(current: Message, update: Message, paths: tuple[str, ...]) -> None:
    """Set the fields at `paths` (see `checked_paths`) of `current` to what `update` has there; unset clears."""
    FieldMask(paths=paths).MergeMessage(update, current, replace_message_field=True, replace_repeated_field=True)
    for path in paths:
        _clear_what_is_not_given(current, update, path.split("."))


def _clear_what_is_not_given(current: Message, update: Message, parts: list[str]) -> None:
    """Clear the field where `update` has none of the messages on the way to it, which merging passes over."""
    given: Message | None = update
    for part in parts[:-1]:
        if not current.HasField(part):
            return
        current = getattr(current, part)
        given = getattr(given, part) if given is not None and given.HasField(part) else None
    if given is None:
        current.ClearField(parts[-1])


def top_level(paths: tuple[str, ...]) -> frozenset[str]:
    """The resource's own fields that the paths touch."""
    return frozenset(path.partition(".")[0] for path in paths)


def _problem(path: str, descriptor: Any) -> str | None:
    if path == "*":
        return "name the fields one by one"
    parts = path.split(".")
    for index, part in enumerate(parts):
        field = descriptor.fields_by_name.get(part) if descriptor is not None else None
        if field is None:
            return "no such field"
        match _behavior(field):
            case options_pb2.FIELD_BEHAVIOR_OUTPUT_ONLY:
                return "set by the server"
            case options_pb2.FIELD_BEHAVIOR_IMMUTABLE:
                return "never changes"
        if index < len(parts) - 1 and field.is_repeated:
            return "replace the list or map as a whole"
        descriptor = field.message_type
    return None


def _behavior(field: FieldDescriptor) -> int:
    options = field.GetOptions()
    if not options.HasExtension(options_pb2.behavior):
        return options_pb2.FIELD_BEHAVIOR_UNSPECIFIED
    return options.Extensions[options_pb2.behavior]


def _invalid(violations: list[FieldViolation], paths: Any) -> DunwellError:
    return DunwellError(
        Reason.UPDATE_MASK_INVALID,
        f"update_mask: {violations[0].description}",
        violations=violations,
        metadata={"paths": ",".join(paths)},
    )
