"""The vendored proto files are those of the packages that the lock names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import protovalidate
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from buf.validate import validate_pb2

THIRD_PARTY = Path(__file__).resolve().parents[3] / "protos" / "third_party"
GOOGLE = sorted(path.relative_to(THIRD_PARTY) for path in (THIRD_PARTY / "google").rglob("*.proto"))


@pytest.mark.parametrize("name", GOOGLE, ids=str)
def test_google_files_are_the_installed_ones(name: Path) -> None:
    spec = importlib.util.find_spec("google.rpc")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    installed = Path(next(iter(spec.submodule_search_locations))).parents[1] / name
    assert (THIRD_PARTY / name).read_bytes() == installed.read_bytes()


def test_protovalidate_enforces_rules_written_with_the_vendored_options() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="dunwell_test/thing.proto",
        package="dunwell_test",
        syntax="proto3",
        dependency=["buf/validate/validate.proto"],
    )
    field = file.message_type.add(name="Thing").field.add(
        name="name",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    field.options.Extensions[validate_pb2.field].string.min_len = 3
    pool = descriptor_pool.Default()
    pool.Add(file)
    thing = message_factory.GetMessageClass(pool.FindMessageTypeByName("dunwell_test.Thing"))

    protovalidate.validate(thing(name="abc"))
    with pytest.raises(protovalidate.ValidationError) as caught:
        protovalidate.validate(thing(name="ab"))
    assert [violation.proto.rule_id for violation in caught.value.violations] == ["string.min_len"]
