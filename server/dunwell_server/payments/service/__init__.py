"""The use cases of payments. Each takes a unit of work, never commits, and never calls a provider."""
