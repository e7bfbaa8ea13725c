"""What the floor knows of one RPC: read from the contract once, when the server is built."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from dunwell.v1 import options_pb2
from dunwell_server.platform.context import Role

DEFAULT_MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Permission:
    """Who may call an RPC; see the contract's option of that name."""

    roles: frozenset[Role]
    firmless: bool = False
    actor_required: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of the contract."""

    service: str
    """Full name of the service, e.g. `dunwell.v1.BillingService`."""
    name: str
    label: str
    """`BillingService.CreateInvoice`: what the audit trail, the logs and idempotency call it."""
    request_type: type[Message]
    streaming: bool
    permission: Permission
    has_request_id: bool
    max_bytes: int = DEFAULT_MAX_BYTES

    @property
    def path(self) -> str:
        """`/dunwell.v1.BillingService/CreateInvoice`."""
        return f"/{self.service}/{self.name}"


def read_permission(method: MethodDescriptor) -> Permission | None:
    """The method's permission; None where the contract gives none, or one that admits nobody."""
    options = method.GetOptions()
    if not options.HasExtension(options_pb2.permission):
        return None
    option = options.Extensions[options_pb2.permission]
    names = [options_pb2.Role.Name(role).removeprefix("ROLE_") for role in option.roles]
    roles = frozenset(Role(name) for name in names if name in Role.__members__)
    return Permission(roles, option.firmless, option.actor_required) if roles and len(roles) == len(names) else None


def read_method(method: MethodDescriptor, permission: Permission, max_bytes: int = DEFAULT_MAX_BYTES) -> Method:
    """The method as the floor sees it."""
    service = method.containing_service
    return Method(
        service=service.full_name,
        name=method.name,
        label=f"{service.name}.{method.name}",
        request_type=GetMessageClass(method.input_type),
        streaming=method.server_streaming,
        permission=permission,
        has_request_id="request_id" in method.input_type.fields_by_name,
        max_bytes=max_bytes,
    )
