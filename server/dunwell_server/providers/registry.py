"""The list of providers. Adding one is one module and one call of `register`."""

from __future__ import annotations

from collections.abc import Callable

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.base import Provider

Factory = Callable[[], Provider]


class ProviderRegistry:
    """Providers by name, each made when first asked for and closed with the registry."""

    def __init__(self) -> None:
        self._factories: dict[str, Factory] = {}
        self._providers: dict[str, Provider] = {}

    def register(self, name: str, factory: Factory) -> None:
        """Adds a provider. Raises ValueError for a name that is taken."""
        if name in self._factories:
            raise ValueError(f"provider {name!r} is registered already")
        self._factories[name] = factory

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names, sorted."""
        return tuple(sorted(self._factories))

    def get(self, name: str) -> Provider:
        """The provider of that name. Raises PROVIDER_NOT_CONFIGURED, naming those there are."""
        provider = self._providers.get(name)
        if provider is not None:
            return provider
        factory = self._factories.get(name)
        if factory is None:
            known = ", ".join(self.names) or "none"
            raise DunwellError(
                Reason.PROVIDER_NOT_CONFIGURED,
                f"provider {name[:64]!r} is not configured; configured: {known}",
                metadata={"provider": name[:64], "configured": known},
            )
        provider = factory()
        if provider.name != name:
            raise ValueError(f"provider {provider.name!r} was registered as {name!r}")
        self._providers[name] = provider
        return provider

    async def close(self) -> None:
        """Closes the providers that were made; one that fails to close does not keep the others open."""
        providers, self._providers = list(self._providers.values()), {}
        failures: list[Exception] = []
        for provider in providers:
            try:
                await provider.close()
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise ExceptionGroup("closing providers", failures)
