"""Python client of the Dunwell billing service."""
