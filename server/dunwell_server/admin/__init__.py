"""Firms, API keys, test clocks, and what the operators of an installation read: providers, audit, runs, verification."""
