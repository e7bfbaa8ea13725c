"""Collects servicers for the builder and refuses what is wrong with them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from dunwell_server.rpc.interceptors.method import DEFAULT_MAX_BYTES, Method, read_method, read_permission
from dunwell_server.rpc.startup import StartupError

AddToServer = Callable[[Any, Any], None]
"""The generated `add_XServicer_to_server`."""


class HandlerCollector:
    """Stands in for a server while generated code registers a servicer, and keeps the handlers."""

    def __init__(self) -> None:
        self.services: dict[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The older of the two ways in which generated code registers; the other one says more."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Keep the handlers of one service."""
        self.services[service] = handlers


@dataclass(frozen=True, slots=True)
class Registration:
    """One method and what serves it."""

    method: Method
    behaviour: Callable[..., Any]


@dataclass(slots=True)
class Registry:
    """The services of one server."""

    services: dict[str, list[Registration]] = field(default_factory=dict)

    def add(self, add_to_server: AddToServer, servicer: object, limits: Mapping[str, int] | None = None) -> None:
        """Register a servicer; `limits` gives methods (`BillingService.X`) more than the default size of a request.

        StartupError: the service was registered before, an RPC has no handler, no permission, the wrong kind of
        handler, or streams requests.
        """
        collector = HandlerCollector()
        add_to_server(servicer, collector)
        for name, handlers in collector.services.items():
            if name in self.services:
                raise StartupError(f"{name} is registered twice")
            descriptor = descriptor_pool.Default().FindServiceByName(name)
            self.services[name] = [
                _registration(descriptor, method, handlers.get(method), servicer, limits or {})
                for method in descriptor.methods_by_name
            ]

    def require(self, services: set[str]) -> None:
        """StartupError where the contract has a service that nobody serves."""
        missing = sorted(services - self.services.keys())
        if missing:
            raise StartupError(f"no servicer for {', '.join(missing)}")


def contract_services(package: str = "dunwell.v1") -> set[str]:
    """The full names of all services in the contract's generated code."""
    module = importlib.import_module(package)
    found: set[str] = set()
    for info in pkgutil.iter_modules(module.__path__):
        if info.name.endswith("_service_pb2"):
            generated = importlib.import_module(f"{package}.{info.name}")
            found.update(service.full_name for service in generated.DESCRIPTOR.services_by_name.values())
    return found


def _registration(
    service: ServiceDescriptor, name: str, handler: Any, servicer: object, limits: Mapping[str, int]
) -> Registration:
    descriptor = service.methods_by_name[name]
    label = f"{service.name}.{name}"
    behaviour = getattr(servicer, name, None)
    if handler is None or behaviour is None or _is_generated(behaviour):
        raise StartupError(f"{type(servicer).__name__} does not serve {label}")
    if descriptor.client_streaming:
        raise StartupError(f"{label} streams requests, which this floor does not serve")
    permission = read_permission(descriptor)
    if permission is None:
        raise StartupError(f"{label} has no permission in the contract")
    is_coroutine = inspect.iscoroutinefunction(behaviour)
    if descriptor.server_streaming and is_coroutine:
        raise StartupError(f"{label} must be an asynchronous generator, or return an asynchronous iterator")
    if not descriptor.server_streaming and not is_coroutine:
        raise StartupError(f"{label} must be a coroutine function")
    return Registration(read_method(descriptor, permission, limits.get(label, DEFAULT_MAX_BYTES)), behaviour)


def _is_generated(behaviour: Any) -> bool:
    """Whether the method is the generated base class's, which raises NotImplementedError."""
    return str(getattr(behaviour, "__module__", "")).endswith("_pb2_grpc")
