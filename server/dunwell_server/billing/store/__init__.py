"""Billing's SQL: rows in and out of clients, engagements, coverage and invoices."""
