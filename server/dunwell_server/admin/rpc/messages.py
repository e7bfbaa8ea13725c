"""Keys, clocks, providers, audit entries and verification as the contract shows them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from dunwell.v1 import (
    admin_service_pb2,
    api_key_pb2,
    approval_pb2,
    audit_pb2,
    money_pb2,
    options_pb2,
    provider_pb2,
    range_pb2,
    test_clock_pb2,
    verification_pb2,
)
from dunwell_server.admin.model import ApiKey, AuditEntry, AuditFilter, Clock, NewApiKey, ProviderStanding
from dunwell_server.admin.service.audit import LedgerReport
from dunwell_server.admin.service.configuring import DEFAULT_OVERLAP, Configuration
from dunwell_server.kernel import ids
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import check_int64
from dunwell_server.platform.approvals import ApprovalKind, PendingApproval
from dunwell_server.platform.audit_chain import ChainReport, Link
from dunwell_server.platform.context import Role
from dunwell_server.platform.invariants import Check
from dunwell_server.providers.base import Provider
from dunwell_server.rpc.auth import CREDENTIAL_ROLES
from dunwell_server.rpc.converters import enum_name, etag, id_text, optional_instant, timestamp

VIOLATIONS: Final = 20
OBJECT_PREFIXES: Final = {
    "firm": Prefix.FIRM, "client": Prefix.CLIENT, "engagement": Prefix.ENGAGEMENT, "invoice": Prefix.INVOICE, "payment": Prefix.PAYMENT,
    "attempt": Prefix.ATTEMPT, "payment_method": Prefix.PAYMENT_METHOD, "provider_customer": Prefix.PROVIDER_CUSTOMER, "run": Prefix.RUN,
    "api_key": Prefix.API_KEY, "test_clock": Prefix.CLOCK, "audit_event": Prefix.AUDIT, "posting": Prefix.POSTING,
    "provider_account": Prefix.PROVIDER_ACCOUNT, "provider_event": Prefix.PROVIDER_EVENT, "approval": Prefix.APPROVAL, "refund": Prefix.REFUND, "tax_rate": Prefix.TAX_RATE, "coupon": Prefix.COUPON, "coupon_redemption": Prefix.COUPON_REDEMPTION, "collection_hold": Prefix.HOLD,
}  # fmt: skip
_DISPLAY_NAMES: Final = {
    "stripe": "Stripe",
    "paypal": "PayPal",
    "razorpay": "Razorpay",
    "sandbox": "Sandbox",
    "manual": "Recorded by hand",
}
_CAPABILITIES: Final = {
    "off_session_charges": provider_pb2.PROVIDER_CAPABILITY_CHARGE_SAVED_METHOD,
    "setup_intents": provider_pb2.PROVIDER_CAPABILITY_SETUP,
    "refunds": provider_pb2.PROVIDER_CAPABILITY_REFUND,
    "checkout": provider_pb2.PROVIDER_CAPABILITY_CHECKOUT,
    "qr": provider_pb2.PROVIDER_CAPABILITY_UPI_QR,
    "webhooks": provider_pb2.PROVIDER_CAPABILITY_WEBHOOKS,
    "disputes": provider_pb2.PROVIDER_CAPABILITY_DISPUTE_EVIDENCE,
    "follows_test_clock": provider_pb2.PROVIDER_CAPABILITY_TEST_CLOCK,
}


def object_id(object_type: str, value: UUID | str) -> str:
    """The public id of an object of any kind; what has no prefix, or no UUID, stays as it is."""
    prefix = OBJECT_PREFIXES.get(object_type.lower())
    if prefix is None:
        return str(value)
    try:
        return ids.encode(prefix, value if isinstance(value, UUID) else UUID(value))
    except ValueError:
        return str(value)


# Keys


def new_api_key(message: api_key_pb2.ApiKey) -> NewApiKey:
    """What CreateApiKey takes. FIELD_INVALID without a role."""
    if message.role == options_pb2.ROLE_UNSPECIFIED:
        raise field_invalid("api_key.role", "is required")
    role = Role(enum_name(options_pb2.Role, message.role, "ROLE_"))
    expires = optional_instant(message, "expire_time", "api_key.expire_time")
    return NewApiKey(message.display_name, role, message.may_name_actor, expires)


def api_key_message(key: ApiKey, now: datetime) -> api_key_pb2.ApiKey:
    """A key without its secret, in its state at `now`."""
    return api_key_pb2.ApiKey(
        id=id_text(Prefix.API_KEY, key.id),
        firm_id=id_text(Prefix.FIRM, key.firm_id),
        display_name=key.display_name,
        role=options_pb2.Role.Value(f"ROLE_{key.role.value}"),
        may_name_actor=key.may_name_actor,
        expire_time=timestamp(key.expire_time),
        state=api_key_pb2.ApiKeyState.Value(f"API_KEY_STATE_{key.state_at(now).value}"),
        create_actor=key.create_actor,
        create_time=timestamp(key.create_time),
        revoke_time=timestamp(key.revoke_time),
    )


# Clocks and providers


def clock_message(clock: Clock) -> test_clock_pb2.TestClock:
    """A firm's test clock."""
    return test_clock_pb2.TestClock(
        id=id_text(Prefix.CLOCK, clock.id),
        firm_id=id_text(Prefix.FIRM, clock.firm_id),
        state=test_clock_pb2.TestClockState.Value(f"TEST_CLOCK_STATE_{clock.state}"),
        firm_time=timestamp(clock.now_time),
        target_time=timestamp(clock.target_time) if clock.is_advancing else None,
        run_id=id_text(Prefix.RUN, clock.run_id),
        etag=etag(clock.version),
        create_time=timestamp(clock.create_time),
        update_time=timestamp(clock.update_time),
    )


def provider_message(standing: ProviderStanding, provider: Provider) -> provider_pb2.Provider:
    """A provider and how the firm stands with it."""
    capabilities, semantics = provider.capabilities, provider.key_semantics
    offline = not capabilities.off_session_charges and standing.account is None and standing.configured
    message = provider_pb2.Provider(
        name=standing.name,
        display_name=_DISPLAY_NAMES.get(standing.name, standing.name.capitalize()),
        configured=standing.configured,
        mode=provider_pb2.AccountMode.Value(
            f"ACCOUNT_MODE_{standing.account.mode if standing.account else 'UNSPECIFIED'}"
        ),
        shared_account=standing.account is not None and standing.account.firm_id is None,
        provider_account_id=id_text(Prefix.PROVIDER_ACCOUNT, standing.account.id if standing.account else None),
        is_default=standing.is_default,
        breaker_open=standing.breaker_open,
        capabilities=[value for flag, value in _CAPABILITIES.items() if getattr(capabilities, flag)],
        currency_codes=sorted(capabilities.currencies or ()),
    )
    if offline:
        message.capabilities.append(provider_pb2.PROVIDER_CAPABILITY_OFFLINE)
        return message
    message.capabilities.append(provider_pb2.PROVIDER_CAPABILITY_LOOKUP)
    message.key_semantics.lifetime.FromTimedelta(semantics.retention)
    message.key_semantics.replays_server_errors = semantics.replays_server_errors
    message.key_semantics.lookup_authoritative = semantics.lookup_authoritative
    return message


def configuration(request: admin_service_pb2.ConfigureProviderRequest) -> Configuration:
    """What ConfigureProvider takes."""
    seconds = request.previous_secret_seconds
    return Configuration(
        request.provider, enum_name(provider_pb2.AccountMode, request.mode, "ACCOUNT_MODE_"), dict(request.credentials),
        timedelta(seconds=seconds) if seconds else DEFAULT_OVERLAP, request.disable, request.make_default,
    )  # fmt: skip


def approval_message(approval: PendingApproval, firm_id: UUID) -> approval_pb2.Approval:
    """What waits for a second person, or waited."""
    prefix = Prefix.ATTEMPT if approval.kind is ApprovalKind.RESOLVE_ATTEMPT else Prefix.REFUND
    return approval_pb2.Approval(
        id=id_text(Prefix.APPROVAL, approval.id),
        firm_id=id_text(Prefix.FIRM, firm_id),
        kind=approval_pb2.ApprovalKind.Value(f"APPROVAL_KIND_{approval.kind}"),
        state=approval_pb2.ApprovalState.Value(f"APPROVAL_STATE_{approval.state}"),
        subject_id=id_text(prefix, approval.subject_id),
        payment_id=id_text(Prefix.PAYMENT, approval.payment_id),
        amount=money_pb2.Money(currency_code=approval.currency_code, amount_minor=approval.amount_minor),
        summary=approval.summary,
        proposer=approval.proposer,
        decider=approval.decider or "",
        note=approval.note or "",
        create_time=timestamp(approval.create_time),
        decide_time=timestamp(approval.decide_time),
    )


def approval_kinds(request: admin_service_pb2.ListPendingApprovalsRequest) -> list[ApprovalKind]:
    """The kinds that a list shows; none: all."""
    return [ApprovalKind(enum_name(approval_pb2.ApprovalKind, kind, "APPROVAL_KIND_")) for kind in request.kinds]


# Audit


def audit_filter(request: admin_service_pb2.ListAuditEventsRequest) -> AuditFilter:
    """What ListAuditEvents filters by. INVALID_ID, PERIOD_INVALID."""
    since, until = time_range(request)
    return AuditFilter(
        categories=[
            enum_name(audit_pb2.AuditCategory, value, "AUDIT_CATEGORY_").lower() for value in request.categories
        ],
        actions=list(request.actions),
        severities=[enum_name(audit_pb2.AuditSeverity, value, "AUDIT_SEVERITY_") for value in request.severities],
        object_type=request.object_type or None,
        object_id=_any_id(request.object_id) if request.object_id else None,
        actor=request.actor or None,
        since=since,
        until=until,
        oldest_first=request.order == audit_pb2.AUDIT_EVENT_ORDER_CREATE_TIME_ASC,
    )


def time_range(request: Any, field: str = "create_time") -> tuple[datetime | None, datetime | None]:
    """A filter's half-open range of instants. PERIOD_INVALID where it ends before it starts."""
    chosen: range_pb2.TimeRange = getattr(request, field)
    since = optional_instant(chosen, "start_time", f"{field}.start_time")
    until = optional_instant(chosen, "end_time", f"{field}.end_time")
    if since is not None and until is not None and until < since:
        path = f"{field}.end_time"
        raise DunwellError(
            Reason.PERIOD_INVALID, "must not lie before start_time", field=path, metadata={"field": path}
        )
    return since, until


def audit_message(entry: AuditEntry, firm_id: UUID) -> audit_pb2.AuditEvent:
    """An entry, with its seal once it has one."""
    role = f"ROLE_{entry.actor_role if entry.actor_role in CREDENTIAL_ROLES else 'UNSPECIFIED'}"
    return audit_pb2.AuditEvent(
        id=id_text(Prefix.AUDIT, entry.id),
        firm_id=id_text(Prefix.FIRM, firm_id),
        category=audit_pb2.AuditCategory.Value(f"AUDIT_CATEGORY_{entry.category.upper()}"),
        action=entry.action,
        severity=audit_pb2.AuditSeverity.Value(f"AUDIT_SEVERITY_{entry.severity}"),
        object_type=entry.object_type,
        object_id=object_id(entry.object_type, entry.object_id),
        actor=entry.actor,
        actor_role=options_pb2.Role.Value(role),
        method=entry.method.replace("Service.", "Service/", 1),
        request_id=str(entry.request_id or ""),
        metadata={name: _text(value) for name, value in entry.metadata.items()},
        firm_time=timestamp(entry.firm_time),
        seal=audit_pb2.AuditSeal(seq=entry.seq, hash=(entry.hash or b"").hex()) if entry.seq else None,
        create_time=timestamp(entry.create_time),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _any_id(text: str) -> UUID:
    name = text.rpartition("_")[0]
    if name not in Prefix._value2member_map_:
        raise DunwellError(
            Reason.INVALID_ID,
            "object_id is not an id of this service",
            field="object_id",
            metadata={"field": "object_id"},
        )
    return ids.decode(Prefix(name), text, "object_id")


def chain_message(report: ChainReport) -> admin_service_pb2.VerifyAuditTrailResponse:
    """What verifying the trail found."""
    return admin_service_pb2.VerifyAuditTrailResponse(
        ok=report.ok,
        verified_count=report.verified,
        unsealed_count=report.unsealed,
        head=_seal(report.head),
        anchored=report.anchor is not None,
        anchor=_seal(report.anchor),
        problems=[
            verification_pb2.AuditProblem(
                seq=problem.seq,
                audit_event_id=id_text(Prefix.AUDIT, problem.audit_id),
                kind=verification_pb2.AuditProblemKind.Value(f"AUDIT_PROBLEM_KIND_{problem.kind.value}"),
                message=problem.message,
            )
            for problem in report.problems
        ],
    )


def _seal(link: Link | None) -> audit_pb2.AuditSeal | None:
    return None if link is None else audit_pb2.AuditSeal(seq=link.seq, hash=link.hash.hex())


def ledger_message(report: LedgerReport) -> admin_service_pb2.VerifyLedgerResponse:
    """What verifying the books found. AMOUNT_OUT_OF_RANGE where the totals of all accounts together leave 64 bits."""
    return admin_service_pb2.VerifyLedgerResponse(
        ok=report.ok,
        checks=[_check(check) for check in report.checks],
        totals=[
            verification_pb2.TrialTotal(
                debit=_total(total.currency_code, total.debit_minor),
                credit=_total(total.currency_code, total.credit_minor),
            )
            for total in report.totals
        ],
        verify_time=timestamp(report.time),
    )


def _total(currency: str, minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=check_int64(minor, "totals"))


def _check(check: Check) -> verification_pb2.LedgerCheck:
    return verification_pb2.LedgerCheck(
        name=check.name,
        description=check.description,
        ok=check.ok,
        violation_count=check.count,
        violations=[
            verification_pb2.LedgerViolation(
                object_type=row.object_type, object_id=object_id(row.object_type, row.object_id), message=row.message
            )
            for row in check.rows[:VIOLATIONS]
        ],
    )
