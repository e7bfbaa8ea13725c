"""Valid requests of the contract, for tests of everything around them."""

from __future__ import annotations

import uuid
from typing import Any

from dunwell.v1 import admin_service_pb2 as admin
from dunwell.v1 import billing_service_pb2 as billing
from dunwell_server.kernel import ids


def get_invoice() -> billing.GetInvoiceRequest:
    """A read of some invoice."""
    return billing.GetInvoiceRequest(invoice_id=ids.encode(ids.Prefix.INVOICE, ids.uuid7()))


def create_client(**fields: Any) -> billing.CreateClientRequest:
    """A client with a name."""
    request = billing.CreateClientRequest(request_id=str(uuid.uuid4()))
    request.client.name = "Ada Byron"
    for name, value in fields.items():
        if name == "metadata":
            request.client.metadata.update(value)
        else:
            setattr(request.client, name, value)
    return request


def get_firm() -> admin.GetFirmRequest:
    """A read of some firm."""
    return admin.GetFirmRequest(firm_id=ids.encode(ids.Prefix.FIRM, ids.uuid7()))


def watch_run() -> admin.WatchRunRequest:
    """A stream about some run."""
    return admin.WatchRunRequest(run_id=ids.encode(ids.Prefix.RUN, ids.uuid7()))
