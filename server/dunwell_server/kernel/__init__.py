"""Words everyone shares: money, calendar, proration, ids, clock, errors, paging.

Pure: no I/O, and no imports from the rest of the server.
"""
