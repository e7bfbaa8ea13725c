"""Dunwell: billing, subscriptions and payments as one gRPC service on PostgreSQL."""
