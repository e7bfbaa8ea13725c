"""The composition root: the one place that knows every part and joins them.

Processes open an `Application` and take from it what they serve: RPC workers the servicers, job workers the handlers, the command line both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import psycopg
from prometheus_client import REGISTRY

from dunwell.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from dunwell.v1.billing_service_pb2_grpc import add_BillingServiceServicer_to_server
from dunwell.v1.payment_service_pb2_grpc import add_PaymentServiceServicer_to_server
from dunwell.v1.provider_event_service_pb2_grpc import add_ProviderEventServiceServicer_to_server
from dunwell.v1.subscription_service_pb2_grpc import add_SubscriptionServiceServicer_to_server
from dunwell_server.admin.jobs import ensure_sidecar_key, settle_platform_accounts
from dunwell_server.admin.rpc.data_exit import ADMIN_LIMITS
from dunwell_server.admin.rpc.servicer import AdminParts, AdminServicer
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.service.platform_accounts import PlatformAccount
from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.ports import CollectionPlanner, PaymentOptions, TaxCalculator
from dunwell_server.billing.rpc.messages import present_client, present_invoice
from dunwell_server.billing.rpc.parts import BillingParts
from dunwell_server.billing.rpc.runs import planned_invoice
from dunwell_server.billing.rpc.servicer import BillingServicer
from dunwell_server.billing.service.credit import expire_credit
from dunwell_server.billing.service.engagements import end_due_engagements
from dunwell_server.billing.service.overdue import mark_overdue
from dunwell_server.billing.service.recognition import recognition_due, recognize
from dunwell_server.billing.service.renewals import auto_renew_engagements
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.billing.store.due import marks_due, packages_due, renewals_due
from dunwell_server.config import Settings
from dunwell_server.disputes import service as disputes
from dunwell_server.disputes.notices import DisputeApplier
from dunwell_server.inbox.jobs.applying import InboxHandler
from dunwell_server.inbox.jobs.gaps import GapPoller, GapsHandler
from dunwell_server.inbox.jobs.routing import RoutingLoop
from dunwell_server.inbox.ports import EventApplier
from dunwell_server.inbox.rpc.servicer import LIMITS as INBOX_LIMITS
from dunwell_server.inbox.rpc.servicer import ProviderEventServicer
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.applying import Appliers, Applying
from dunwell_server.inbox.service.ingest import Ingestor
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.payments.jobs import (
    AttemptsHandler,
    Charger,
    Checker,
    CollectHandler,
    CollectionRunExecutor,
    Gateways,
    MethodKeeper,
    ReconciliationExecutor,
    Refunder,
    RefundsHandler,
)
from dunwell_server.payments.jobs.clocks import ProviderClocks
from dunwell_server.payments.jobs.disputing import DisputeDesk
from dunwell_server.payments.jobs.notices import payment_appliers
from dunwell_server.payments.jobs.pages import PageKeeper, PagesHandler
from dunwell_server.payments.jobs.tracing import PaymentTracer
from dunwell_server.payments.planning import Planner
from dunwell_server.payments.rpc import PaymentParts, PaymentServicer, Presenters
from dunwell_server.payments.service import reactions
from dunwell_server.payments.service.approvals import Approvals
from dunwell_server.payments.service.documents import DocumentPayments
from dunwell_server.payments.service.health import expiring_due, warn_of_expiring
from dunwell_server.payments.service.queries import collect_next_due
from dunwell_server.payments.service.reconciliation import something_to_reconcile
from dunwell_server.payments.service.refund_notices import RefundNotices, RefundTotalNotices
from dunwell_server.platform import migrate
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.approvals import ApprovalDesk
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.embedded import EmbeddedPostgres
from dunwell_server.platform.features import FeatureDefaults
from dunwell_server.platform.questions import Question
from dunwell_server.platform.rate_limits import RateLimits
from dunwell_server.platform.runs import RunExecutor, RunKind
from dunwell_server.platform.sealer import AuditSealer
from dunwell_server.platform.work import WorkHandler, WorkKind
from dunwell_server.providers.manual import ManualProvider
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.sandbox import SandboxProvider
from dunwell_server.providers.stripe import StripeProvider
from dunwell_server.rpc.auth import ApiKeys, Authenticator, DatabaseKeyStore
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.jwt import Jwks, JwtVerifier
from dunwell_server.rpc.server import RpcServer
from dunwell_server.scheduler.all_firms import AllFirmsRuns
from dunwell_server.scheduler.clock import ClockRunExecutor
from dunwell_server.scheduler.daily import DailyMarks, DailyRun
from dunwell_server.scheduler.runs import RunHandler
from dunwell_server.scheduler.worker import JobWorker
from dunwell_server.subscriptions.rpc import SubscriptionParts, SubscriptionServicer

ENVIRONMENT_PROVIDERS: Final = ("stripe",)
"""Providers at which the environment may configure an account of the installation."""


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrls:
    """One database as its roles reach it. `owner` is None where the installation was given the application's URL only."""

    owner: str | None
    application: str
    auditor: str | None


def resolve_urls(settings: Settings, *, accept_owner: bool = False) -> DatabaseUrls:
    """Where the database is. Starts the embedded one where none is configured.

    Given an owner's URL only, the other two roles are derived from it and the installation's secret; `dunwell migrate` makes them.
    `accept_owner` (development commands) takes a `DATABASE_URL` whose role may create roles for the owner's.
    """
    owner = settings.owner_database_url.get_secret_value() if settings.owner_database_url else None
    application = settings.database_url.get_secret_value() if settings.database_url else None
    auditor = settings.audit_database_url.get_secret_value() if settings.audit_database_url else None
    if owner is None and application is None:
        owner = EmbeddedPostgres(settings.data_dir).start()
    if owner is None and application is not None and accept_owner and _may_create_roles(application):
        owner, application = application, None
    if owner is not None:
        derived = migrate.derived_urls(owner, settings.keys.derive("database-roles"))
        application, auditor = application or derived.application, auditor or derived.auditor
    assert application is not None
    return DatabaseUrls(owner, application, auditor)


def migrate_database(urls: DatabaseUrls) -> str:
    """Run `dunwell migrate`'s work; returns the revision. MigrationError where no owner's URL is known."""
    if urls.owner is None:
        raise migrate.MigrationError("Migrations need the owner's URL in DUNWELL_OWNER_DATABASE_URL.")
    derived = migrate.RoleUrls(urls.application, urls.auditor or urls.application)
    return migrate.migrate(urls.owner, derived)


def _may_create_roles(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    return bool(row and row[0])


class Application:
    """The parts of one process, joined. Made by `open_application`."""

    def __init__(
        self, settings: Settings, urls: DatabaseUrls, database: Database, registry: ProviderRegistry, vault: Vault
    ) -> None:
        self.settings = settings
        self.urls = urls
        self.database = database
        self.registry = registry
        self.vault = vault
        self.charger = Charger(Gateways(registry, vault, RateLimits(database)))
        self.checker = Checker(self.charger)
        self.refunder = Refunder(self.charger)
        self.clocks = ProviderClocks(registry, self.charger.gateways)
        self.endpoints = Endpoints(registry, vault)
        self.ingestor = Ingestor(database, self.endpoints, vault)
        self.gap_poller = GapPoller(self.endpoints, self.ingestor)

    @property
    def bus(self) -> Bus:
        """Domain events and ports, as wired."""
        return self.database.bus

    @cached_property
    def handlers(self) -> list[WorkHandler]:
        """The handlers of due work that follow firm time, in the order in which they work at one instant."""
        return [
            # Before the package run, which bills a term that begins today.
            DailyMarks([auto_renew_engagements], renewals_due, WorkKind.RENEWALS),
            DailyRun(
                WorkKind.PACKAGES, RunKind.PACKAGES, lambda settings: settings.package_run_time, has_work=packages_due
            ),
            DailyMarks([mark_overdue, end_due_engagements, expire_credit], marks_due),
            DailyMarks([recognize], recognition_due, WorkKind.RECOGNITION),
            DailyMarks([warn_of_expiring], expiring_due, WorkKind.METHODS),
            DailyRun(
                WorkKind.CHARGES,
                RunKind.COLLECTION,
                lambda settings: settings.collection_run_time,
                _something_to_collect,
            ),
            CollectHandler(self.charger),
            AttemptsHandler(self.checker),
            PagesHandler(PageKeeper(self.charger.gateways)),
            DailyRun(
                WorkKind.RECONCILE,
                RunKind.RECONCILIATION,
                lambda settings: settings.package_run_time,
                something_to_reconcile,
            ),
            RefundsHandler(self.refunder),
        ]

    @cached_property
    def event_appliers(self) -> list[EventApplier]:
        """What takes over providers' events: each kind of notice has one applier."""
        gateways = self.charger.gateways
        tracer = PaymentTracer(gateways)
        inner: list[EventApplier] = [
            MirrorApplier(),
            RefundNotices(tracer),
            RefundTotalNotices(self.refunder, tracer),
            DisputeApplier(DisputeDesk(gateways), tracer),
        ]
        return [*inner, *payment_appliers(gateways)]

    @cached_property
    def inbox(self) -> InboxHandler:
        """Applies the events of a firm."""
        return InboxHandler(Applying(self.endpoints, Appliers(self.event_appliers)))

    @cached_property
    def run_handler(self) -> RunHandler:
        """Executes runs of every kind."""
        # With one job worker two lanes keep both the process and the database busy; several workers overlap by themselves.
        packages = PackageRunExecutor(lanes=2 if self.settings.jobs == 1 else 1)
        inner: list[RunExecutor] = [packages, CollectionRunExecutor(self.charger, self.checker)]
        inner.append(ReconciliationExecutor(self.charger))
        return RunHandler([*inner, ClockRunExecutor(self.handlers, RunHandler(inner), [self.clocks], self.inbox)])

    def job_worker(self, *, concurrency: int = 16) -> JobWorker:
        """A worker on every kind of due work."""
        by_machine_time: list[WorkHandler] = [self.inbox, GapsHandler(self.gap_poller)]
        return JobWorker(self.database, [self.run_handler, *by_machine_time, *self.handlers], concurrency=concurrency)

    def router(self) -> RoutingLoop:
        """The loop that finds the firms of events of the platform's accounts, and their gaps."""
        return RoutingLoop(self.database, self.endpoints, self.vault, self.gap_poller)

    @property
    def anchors(self) -> AnchorStore:
        """Where the heads of the audit chains are kept, outside the database."""
        return AnchorStore(self.settings.data_dir / "anchors", self.settings.keys)

    def sealer(self) -> AuditSealer:
        """The loop that chains audit entries."""
        return AuditSealer(self.database, self.anchors)

    def rpc_server(self, *, index: int = 0, shared_port: bool = False) -> RpcServer:
        """One RPC server with every servicer of the contract."""
        settings, keys = self.settings, self.settings.keys
        tokens = token_verifier(settings)
        authenticator = Authenticator(ApiKeys(DatabaseKeyStore(self.database), keys.api_key_peppers), tokens)
        server = RpcServer(
            settings, authenticator, self.database.ping, shared_port=shared_port, index=index, registry=REGISTRY
        )
        calls = Calls(self.database, server.background)
        all_firms = AllFirmsRuns(self.database)
        server.add(
            add_BillingServiceServicer_to_server,
            BillingServicer(BillingParts(calls, all_firms, Pager(keys.page_token))),
        )
        subscriptions = SubscriptionServicer(SubscriptionParts(calls, Pager(keys.page_token)))
        server.add(add_SubscriptionServiceServicer_to_server, subscriptions)
        presenters = Presenters(present_client, present_invoice)
        keeper = MethodKeeper(self.charger.gateways)
        payments = PaymentParts(
            calls, self.charger, keeper, presenters, all_firms, Pager(keys.page_token), settings.return_url
        )
        server.add(add_PaymentServiceServicer_to_server, PaymentServicer(payments))
        events = ProviderEventServicer(calls, self.ingestor, self.vault, Pager(keys.page_token))
        server.add(add_ProviderEventServiceServicer_to_server, events, INBOX_LIMITS)
        installation = Installation(self.vault, self.registry, settings.payment_provider)
        parts = AdminParts(
            calls,
            Pager(keys.page_token),
            installation,
            keys.api_key_peppers[0],
            self.anchors,
            [self.clocks],
            planned_invoice,
        )
        server.add(add_AdminServiceServicer_to_server, AdminServicer(parts), ADMIN_LIMITS)
        return server


def token_verifier(settings: Settings) -> JwtVerifier | None:
    """What checks JWTs; None where no issuer is configured."""
    if settings.jwt_issuer is None or settings.jwt_jwks_file is None:
        return None
    return JwtVerifier(Jwks(settings.jwt_jwks_file), settings.jwt_issuer, settings.jwt_audience)


def wire(settings: Settings) -> Bus:
    """Join the contexts: ports filled, subscribers in order."""
    bus = Bus()
    bus.provide(FeatureDefaults, settings.features)
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    bus.provide(PaymentOptions, DocumentPayments())  # type: ignore[type-abstract]
    bus.provide(ApprovalDesk, Approvals())  # type: ignore[type-abstract]
    reactions.subscribe(bus)
    disputes.subscribe(bus)
    return bus


def providers(settings: Settings) -> ProviderRegistry:
    """Every provider there is: one module and one line here each."""
    registry = ProviderRegistry()
    sandbox_url = settings.sandbox_url or f"http://127.0.0.1:{settings.sandbox_port}"
    registry.register("sandbox", lambda: SandboxProvider(sandbox_url))
    registry.register("stripe", lambda: StripeProvider(settings.stripe_api_base))
    registry.register("manual", ManualProvider)
    return registry


async def prepare_installation(settings: Settings, urls: DatabaseUrls, sidecar_key: Path) -> None:
    """What a service does once at its start: its provider accounts from the environment, and a key for its own sidecar.

    The key is kept in the file `sidecar_key`, unless there is no such sidecar or it has been given one.
    """
    database = await Database.open(urls.application, bus=wire(settings), max_size=1, name="dunwell-start")
    try:
        vault = Vault.of(settings.keys)
        await settle_platform_accounts(database, platform_accounts(settings), ENVIRONMENT_PROVIDERS, vault)
        if settings.makes_sidecar_key:
            await ensure_sidecar_key(database, settings.keys.api_key_peppers, sidecar_key)
    finally:
        await database.close()


def platform_accounts(settings: Settings) -> list[PlatformAccount]:
    """The installation's own accounts at providers, as the environment has them."""
    accounts: list[PlatformAccount] = []
    if settings.stripe_secret_key is not None and settings.stripe_mode is not None:
        credentials = {"secret_key": settings.stripe_secret_key.get_secret_value()}
        if settings.stripe_publishable_key is not None:
            credentials["publishable_key"] = settings.stripe_publishable_key
        if settings.stripe_webhook_secret is not None:
            credentials["webhook_secret"] = settings.stripe_webhook_secret.get_secret_value()
        accounts.append(PlatformAccount("stripe", settings.stripe_mode, credentials))
    return accounts


@asynccontextmanager
async def open_application(
    settings: Settings, *, name: str, pool_size: int | None = None
) -> AsyncIterator[Application]:
    """The process's parts on an open pool; closed at the end. `name` shows in PostgreSQL's list of connections."""
    urls = resolve_urls(settings)
    database = await Database.open(
        urls.application,
        bus=wire(settings),
        max_size=pool_size or settings.pool_size,
        max_waiting=settings.pool_waiting,
        name=f"dunwell-{name}",
    )
    registry = providers(settings)
    try:
        yield Application(settings, urls, database, registry, Vault.of(settings.keys))
    finally:
        await registry.close()
        await database.close()


def _something_to_collect(uow: UnitOfWork, at: datetime) -> Question[bool]:
    return collect_next_due(uow).then(lambda due: due is not None and due <= at)
