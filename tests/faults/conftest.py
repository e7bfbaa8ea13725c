"""Short leases and a log of kills, set before anything of the server is imported."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("DUNWELL_LEASE_SECONDS", "0.6")
os.environ.setdefault("DUNWELL_FAILPOINT_LOG", str(Path(tempfile.mkdtemp(prefix="dunwell-faults-")) / "kills.log"))
