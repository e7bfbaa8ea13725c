"""Feature switches: the installation's defaults, which each firm may override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.database import UnitOfWork


class Feature(StrEnum):
    """A switch. The value is its field in the contract and its key in a firm's settings; upper case, the environment variable."""

    CARD_PAYMENTS = "enable_card_payments"
    PRORATION = "enable_proration"
    UPI_PAYMENTS = "enable_upi_payments"
    FREE_TRIAL = "enable_free_trial"
    ANNUAL_BILLING = "enable_annual_billing"
    TRIAL_REMINDERS = "enable_trial_reminders"

    @property
    def variable(self) -> str:
        """The environment variable, which is also what FEATURE_DISABLED names."""
        return self.value.upper()


@dataclass(frozen=True, slots=True)
class FeatureDefaults:
    """The installation's switches; one that is not named is on. `bootstrap` provides it on the bus."""

    switches: Mapping[Feature, bool] = field(default_factory=dict)

    def __getitem__(self, feature: Feature) -> bool:
        return self.switches.get(feature, True)


def is_enabled(uow: UnitOfWork, feature: Feature) -> bool:
    """Whether the feature is on for the transaction's firm: as the firm chose, else as the installation is configured."""
    chosen = uow.firm.settings.features.get(feature.value)
    return _defaults(uow)[feature] if chosen is None else chosen


def _defaults(uow: UnitOfWork) -> FeatureDefaults:
    try:
        return uow.bus.port(FeatureDefaults)
    except KeyError:
        return FeatureDefaults()


def require_feature(uow: UnitOfWork, feature: Feature) -> None:
    """Raise FEATURE_DISABLED, naming the switch, where the feature is off for the transaction's firm."""
    if not is_enabled(uow, feature):
        raise DunwellError(
            Reason.FEATURE_DISABLED,
            f"{feature.variable} is switched off for this firm.",
            metadata={"feature": feature.variable},
        )
