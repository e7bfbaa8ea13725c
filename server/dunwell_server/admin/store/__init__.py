"""The SQL of firms, keys, clocks, provider accounts and the audit trail."""
