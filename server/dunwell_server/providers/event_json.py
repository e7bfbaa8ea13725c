"""The JSON of webhooks, as texts that a database can hold.

JSON may name characters that are none, NUL and halves of surrogate pairs, which neither PostgreSQL nor UTF-8 takes. They
are replaced where a body is read, so that an event that has one somewhere is not stuck for it; the body as it came is
kept beside what was read.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def read_event_json(body: bytes) -> Any:
    """What a body says. Raises ValueError where it is no JSON, or nested too deeply."""
    try:
        said = body.decode(json.detect_encoding(body), "surrogatepass")
        found = json.loads(said)
        return _storable(found) if "\\u" in said or _UNSTORABLE.search(said) else found
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(_REPLACEMENT, value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(name): _storable(item) for name, item in value.items()}
    return value
