"""Fields of requests, checked; and names for new objects."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from dunwell_server.sandbox.answers import Json, invalid

MAX_AMOUNT = 10**15
MAX_TEXT = 1000


def new_id(prefix: str) -> str:
    """A name nobody can guess."""
    return f"{prefix}_{secrets.token_hex(12)}"


def only(body: Json, known: Iterable[str]) -> None:
    """Refuses fields that are not known: a misspelt one would be silently without effect."""
    unknown = set(body) - set(known)
    if unknown:
        raise invalid("parameter_unknown", f"Unknown fields: {', '.join(sorted(unknown))}.")


def text_field(body: Json, name: str, *, longest: int = MAX_TEXT) -> str | None:
    """A text, or None where there is none."""
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= longest):
        raise invalid("parameter_invalid", f"{name} is a text of 1 to {longest} characters.", name)
    return value


def needed(body: Json, name: str) -> str:
    """A text that must be there."""
    value = text_field(body, name)
    if value is None:
        raise invalid("parameter_missing", f"{name} is required.", name)
    return value


def metadata_field(body: Json) -> dict[str, str]:
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict) or len(metadata) > 50 or not all(isinstance(v, str) for v in metadata.values()):
        raise invalid("parameter_invalid", "metadata has at most 50 text values.", "metadata")
    return metadata


def amount_field(body: Json) -> int:
    """Minor units, above zero."""
    amount = body.get("amount")
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MAX_AMOUNT:
        raise invalid("amount_invalid", "amount is a positive whole number of minor units.", "amount")
    return amount


def currency_field(body: Json) -> str:
    currency = body.get("currency")
    if not isinstance(currency, str) or not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise invalid("currency_invalid", "currency is an ISO 4217 code.", "currency")
    return currency.upper()


def flag_field(body: Json, name: str) -> bool:
    """True or false; false where it is not said."""
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise invalid("parameter_invalid", f"{name} is true or false.", name)
    return value


def number_field(body: Json, name: str, least: int, most: int) -> int | None:
    """A whole number between two bounds, or None."""
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most):
        raise invalid("parameter_invalid", f"{name} is a whole number from {least} to {most}.", name)
    return value


def url_field(body: Json, name: str) -> str | None:
    """An address of the web, to which a browser may be sent."""
    value = text_field(body, name)
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        if parts.scheme in ("http", "https") and parts.hostname:
            return value
    except ValueError:
        pass
    raise invalid("url_invalid", f"{name} is an http or https address.", name)
