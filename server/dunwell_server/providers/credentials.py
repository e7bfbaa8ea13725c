"""What credentials an account of a provider has, and what they look like.

A provider that has rules offers them as `credential_rules(mode)`; without, every credential is taken as it comes. The rules see shapes only:
whether a key opens anything is known when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.accounts import AccountMode


@dataclass(frozen=True, slots=True)
class CredentialRule:
    """One credential by name. `pattern` is matched in full; `looks_like` tells people what it expects."""

    name: str
    pattern: str
    looks_like: str
    required: bool = False


@runtime_checkable
class HasCredentialRules(Protocol):
    """A provider that knows what its credentials look like."""

    def credential_rules(self, mode: AccountMode) -> Sequence[CredentialRule]:
        """The rules for an account of `mode`."""


COMMON_RULES: Final = (
    CredentialRule("rate_limit_per_second", r"(?!0+(\.0+)?$)\d{1,5}(\.\d{1,3})?", "calls per second, such as 25"),
)
"""What every account may have: the limit of calls per second, where it is not the provider's usual one."""

HISTORY: Final = frozenset({"webhook_secret_previous", "webhook_secret_previous_until", "source"})
"""Kept by the server beside the credentials; no caller sets them."""


def check_credentials(provider: object, mode: AccountMode, credentials: Mapping[str, str], provider_name: str) -> None:
    """Refuse what an account at `provider` cannot have. CREDENTIAL_INVALID naming the credential, never showing it."""
    rules: Sequence[CredentialRule] = COMMON_RULES
    if isinstance(provider, HasCredentialRules):
        rules = (*provider.credential_rules(mode), *COMMON_RULES)
        known = {rule.name for rule in rules}
        for name in sorted(credentials.keys() - known):
            raise invalid(name, f"{provider_name} has no credential {name!r}; it has: {', '.join(sorted(known))}")
    for rule in rules:
        value = credentials.get(rule.name)
        if value is None:
            if rule.required:
                raise invalid(rule.name, f"{provider_name} needs {rule.name}: {rule.looks_like}")
        elif re.fullmatch(rule.pattern, value) is None:
            raise invalid(rule.name, f"{rule.name} of a {mode} account at {provider_name} is {rule.looks_like}")


def invalid(name: str, message: str) -> DunwellError:
    """CREDENTIAL_INVALID. The message must not repeat the value."""
    return DunwellError(
        Reason.CREDENTIAL_INVALID, message, field=f"credentials.{name}", metadata={"credential": name}
    )  # fmt: skip
