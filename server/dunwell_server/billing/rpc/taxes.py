"""The handlers of tax rates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import tax_pb2
from dunwell_server.billing.model import STANDARD_TAX_CATEGORY
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.rpc.pricing_messages import tax_rate_message
from dunwell_server.billing.service import tax_rates
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.tax_rates import NewTaxRate, TaxRateQuery
from dunwell_server.billing.taxes import TaxBehavior
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import decimal, enum_name, expected_version, id_value, optional_date
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level


class TaxHandlers(BillingHandlers):
    """Tax rates."""

    async def CreateTaxRate(self, request: pb.CreateTaxRateRequest, context: Any) -> pb.CreateTaxRateResponse:
        new = _new(request.tax_rate)

        async def work(uow: UnitOfWork) -> pb.CreateTaxRateResponse:
            rate = await tax_rates.create_tax_rate(uow, new)
            return pb.CreateTaxRateResponse(tax_rate=tax_rate_message(uow, rate))

        return await self._calls.write(request, pb.CreateTaxRateResponse, work)

    async def UpdateTaxRate(self, request: pb.UpdateTaxRateRequest, context: Any) -> pb.UpdateTaxRateResponse:
        paths = checked_paths(request.update_mask, tax_pb2.TaxRate)
        rate_id = id_value(Prefix.TAX_RATE, request.tax_rate.id, "tax_rate.id")

        async def work(uow: UnitOfWork) -> pb.UpdateTaxRateResponse:
            message = tax_rate_message(uow, await tax_rates.get_tax_rate(uow, rate_id, lock=True))
            apply_mask(message, request.tax_rate, paths)
            changes, version = _changes(message, top_level(paths)), expected_version(request.etag)
            rate = await tax_rates.update_tax_rate(uow, rate_id, changes, expected_version=version)
            return pb.UpdateTaxRateResponse(tax_rate=tax_rate_message(uow, rate))

        return await self._calls.write(request, pb.UpdateTaxRateResponse, work)

    async def ListTaxRates(self, request: pb.ListTaxRatesRequest, context: Any) -> pb.ListTaxRatesResponse:
        page = self._pager.read(request)
        query = TaxRateQuery(
            request.country_code or None,
            request.tax_category or None,
            optional_date(request, "valid_on_date"),
            request.include_archived,
        )

        async def work(uow: UnitOfWork) -> pb.ListTaxRatesResponse:
            found = await tax_rates.list_tax_rates(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.rate.id))
            return pb.ListTaxRatesResponse(
                tax_rates=[tax_rate_message(uow, rate) for rate in shown], next_page_token=token
            )

        return await self._calls.read(work)


def _new(message: tax_pb2.TaxRate) -> NewTaxRate:
    behavior = enum_name(tax_pb2.TaxBehavior, message.behavior, "TAX_BEHAVIOR_")
    return NewTaxRate(
        name=message.name,
        percentage=decimal(message.percentage, "tax_rate.percentage"),
        country_code=message.country_code,
        region=message.region,
        excluded_regions=tuple(message.excluded_regions),
        tax_category=message.tax_category or STANDARD_TAX_CATEGORY,
        behavior=None if behavior == "UNSPECIFIED" else TaxBehavior(behavior),
        valid_from_date=optional_date(message, "valid_from_date", "tax_rate.valid_from_date"),
        valid_until_date=optional_date(message, "valid_until_date", "tax_rate.valid_until_date"),
        state=_state(message),
    )


def _changes(message: tax_pb2.TaxRate, fields: Iterable[str]) -> dict[str, Any]:
    """The columns of the named fields, from a message that has their new values. FIELD_INVALID for a name that is cleared."""
    if not message.name:
        problem = FieldViolation("tax_rate.name", "cannot be cleared")
        raise DunwellError(Reason.FIELD_INVALID, "tax_rate.name cannot be cleared", violations=[problem])
    readers = {
        "name": ("name", message.name),
        "valid_until_date": (
            "valid_until_date",
            optional_date(message, "valid_until_date", "tax_rate.valid_until_date"),
        ),
        "archived": ("state", _state(message)),
    }
    return dict(readers[name] for name in fields)


def _state(message: tax_pb2.TaxRate) -> str:
    return "ARCHIVED" if message.archived else "ACTIVE"
