"""The SQL of payments: rows in and out as model objects, claims in sets."""
