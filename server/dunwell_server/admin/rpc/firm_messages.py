"""Firms between the contract and the settings that rules read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import time
from typing import Any, Final

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from dunwell.v1 import address_pb2, firm_pb2, money_pb2, provider_pb2, tax_pb2
from dunwell_server.admin.model import FirmRecord, NewFirm
from dunwell_server.kernel.errors import field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.firms import BreakerPolicy, FirmSettings, Numbering, RetryPolicy, TaxSettings, TimePolicy
from dunwell_server.rpc.converters import enum_name, etag, id_text, timestamp

DEFAULT_WAIT_DAYS: Final = RetryPolicy().wait_days
_TEXTS: Final = ("legal_name", "tax_id", "notice_email")
_MESSAGES: Final = ("address", "branding")


def firm_message(firm: FirmRecord) -> firm_pb2.Firm:
    """A firm as the contract shows it, every default filled in."""
    settings, document = firm.settings, firm.settings.document
    message = firm_pb2.Firm(
        id=id_text(Prefix.FIRM, firm.id),
        external_id=firm.external_id or "",
        display_name=firm.display_name,
        currency_code=settings.currency_code,
        time_zone=settings.time_zone,
        locale=settings.locale,
        mode=provider_pb2.AccountMode.Value(f"ACCOUNT_MODE_{firm.mode}"),
        numbering=firm_pb2.InvoiceNumbering(
            prefix=settings.numbering.prefix,
            padding=settings.numbering.padding,
            yearly_reset=settings.numbering.yearly_reset,
        ),
        payment_terms_days=settings.payment_terms_days,
        retry_policy=firm_pb2.RetryPolicy(
            wait_days=settings.retry.wait_days or document.get("retry_wait_days", DEFAULT_WAIT_DAYS),
            disabled=not settings.retry.wait_days,
            retry_on_new_method=settings.retry.retry_on_new_method,
        ),
        run_schedule=firm_pb2.RunSchedule(
            package_run_time=settings.package_run_time.isoformat("minutes"),
            collection_run_time=settings.collection_run_time.isoformat("minutes"),
        ),
        approval_limits=_limit_messages(settings.approval_limits),
        refund_approval_limits=_limit_messages(settings.refund_approval_limits),
        breaker_policy=firm_pb2.BreakerPolicy(
            charges_per_hour=settings.breaker.charges_per_hour,
            same_amount_per_day=settings.breaker.same_amount_per_day,
            decline_percent=settings.breaker.decline_percent,
            disabled=settings.breaker.disabled,
        ),
        time_policy=firm_pb2.TimePolicy(allow_self_approval=settings.time_policy.allow_self_approval),
        tax=tax_pb2.TaxSettings(
            rounding=tax_pb2.TaxRounding.Value(f"TAX_ROUNDING_{settings.tax.rounding}"),
            behavior=tax_pb2.TaxBehavior.Value(f"TAX_BEHAVIOR_{settings.tax.behavior}"),
        ),
        default_provider=settings.default_provider,
        state=firm_pb2.FirmState.Value(f"FIRM_STATE_{firm.state}"),
        test_clock_id=id_text(Prefix.CLOCK, firm.test_clock_id),
        etag=etag(firm.version),
        create_time=timestamp(firm.create_time),
        update_time=timestamp(firm.update_time),
        **{name: document.get(name, "") for name in _TEXTS},
    )
    for name in _MESSAGES:
        if name in document:
            ParseDict(document[name], getattr(message, name), ignore_unknown_fields=True)
            getattr(message, name).SetInParent()
    for name, chosen in settings.features.items():
        if name in firm_pb2.FeatureOverrides.DESCRIPTOR.fields_by_name:
            setattr(message.features, name, chosen)
    return message


def new_firm(message: firm_pb2.Firm) -> NewFirm:
    """What CreateFirm takes. FIELD_INVALID."""
    mode = provider_pb2.AccountMode.Name(message.mode).removeprefix("ACCOUNT_MODE_")
    return NewFirm(message.external_id or None, message.display_name, mode, settings_of(message))


def changed_firm(firm: FirmRecord, message: firm_pb2.Firm) -> FirmRecord:
    """The firm with everything that may change taken from `message`, in which the update has been merged. FIELD_INVALID."""
    return replace(
        firm,
        external_id=message.external_id or None,
        display_name=message.display_name,
        settings=settings_of(message),
    )


def settings_of(message: firm_pb2.Firm) -> FirmSettings:
    """The settings of a message; what is not set gets its default. FIELD_INVALID for two limits in one currency."""
    schedule = message.run_schedule
    return FirmSettings(
        currency_code=message.currency_code,
        time_zone=message.time_zone,
        locale=message.locale or "en",
        payment_terms_days=message.payment_terms_days if message.HasField("payment_terms_days") else 30,
        package_run_time=time.fromisoformat(schedule.package_run_time or "02:00"),
        collection_run_time=time.fromisoformat(schedule.collection_run_time or "03:00"),
        numbering=_numbering(message.numbering),
        retry=_retry(message.retry_policy),
        default_provider=message.default_provider,
        approval_limits=_limits(message.approval_limits, "approval_limits"),
        refund_approval_limits=_limits(message.refund_approval_limits, "refund_approval_limits"),
        breaker=_breaker(message.breaker_policy),
        tax=_tax(message.tax),
        time_policy=TimePolicy(message.time_policy.allow_self_approval),
        features={field.name: value for field, value in message.features.ListFields()},
        document=_document(message),
    )


def _numbering(message: firm_pb2.InvoiceNumbering) -> Numbering:
    standard = Numbering()
    return Numbering(
        message.prefix or standard.prefix,
        message.padding if message.HasField("padding") else standard.padding,
        message.yearly_reset if message.HasField("yearly_reset") else standard.yearly_reset,
    )


def _retry(message: firm_pb2.RetryPolicy) -> RetryPolicy:
    days = () if message.disabled else tuple(message.wait_days) or DEFAULT_WAIT_DAYS
    return RetryPolicy(days, message.retry_on_new_method)


def _breaker(message: firm_pb2.BreakerPolicy) -> BreakerPolicy:
    standard = BreakerPolicy()
    return BreakerPolicy(
        message.charges_per_hour or standard.charges_per_hour,
        message.same_amount_per_day or standard.same_amount_per_day,
        message.decline_percent or standard.decline_percent,
        message.disabled,
    )


def _tax(message: tax_pb2.TaxSettings) -> TaxSettings:
    standard = TaxSettings()
    return TaxSettings(
        enum_name(tax_pb2.TaxRounding, message.rounding, "TAX_ROUNDING_") if message.rounding else standard.rounding,
        enum_name(tax_pb2.TaxBehavior, message.behavior, "TAX_BEHAVIOR_") if message.behavior else standard.behavior,
    )


def _limit_messages(limits: Mapping[str, int]) -> list[money_pb2.Money]:
    return [money_pb2.Money(currency_code=code, amount_minor=limit) for code, limit in sorted(limits.items())]


def _limits(limits: Iterable[money_pb2.Money], name: str) -> dict[str, int]:
    result: dict[str, int] = {}
    for index, limit in enumerate(limits):
        if limit.currency_code in result:
            raise field_invalid(f"firm.{name}[{index}].currency_code", "has a limit already")
        result[limit.currency_code] = limit.amount_minor
    return result


def _document(message: firm_pb2.Firm) -> dict[str, Any]:
    document: dict[str, Any] = {name: getattr(message, name) for name in _TEXTS if getattr(message, name)}
    for name in _MESSAGES:
        if message.HasField(name):
            document[name] = _plain(getattr(message, name))
    if message.retry_policy.disabled and message.retry_policy.wait_days:
        # Kept for the day when retries are switched on again.
        document["retry_wait_days"] = list(message.retry_policy.wait_days)
    return document


def _plain(message: Message | address_pb2.Address) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)
