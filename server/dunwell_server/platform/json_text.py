"""JSON as it is written to the database, alone or in lists."""

from __future__ import annotations

import json
from typing import Any


def json_text(value: Any) -> str:
    """The JSON of a value, without blanks; what JSON has no form for (ids, days, decimals) as its text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
