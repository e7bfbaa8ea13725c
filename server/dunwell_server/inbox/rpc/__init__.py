"""ProviderEventService."""
