"""Billing's use cases: one function per RPC or run step. They take a unit of work and never commit."""
