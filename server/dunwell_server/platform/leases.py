"""How long a claim stands without renewal.

Leases follow machine time. A holder renews every third of the lease, so that only a dead or stopped one loses it; its work is back
within a lease and a tick. `DUNWELL_LEASE_SECONDS` shortens it for crash tests, which would otherwise wait more than they kill.
"""

from __future__ import annotations

import os
from typing import Final

LEASE_SECONDS: Final = float(os.environ.get("DUNWELL_LEASE_SECONDS", "30"))
