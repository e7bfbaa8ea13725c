"""Typed identifiers: ``inv_01h455vb4pex5vsknk084sn02q`` outside, a UUID inside.

The text form is TypeID 0.3: a prefix naming the kind, and the UUID in 26 characters of lower-case Crockford base32.
New objects get version 7 (time-ordered); objects whose identity follows from others get version 8, derived by hash,
so that doing the work twice finds the same row.
"""

from __future__ import annotations

import os
import struct
from enum import StrEnum
from typing import Final
from uuid import UUID, SafeUUID

from dunwell_server.kernel.clock import machine_ns
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.hashing import digest_parts


class Prefix(StrEnum):
    """The kind of object an id names; the part before the underscore."""

    FIRM = "firm"
    CLIENT = "cli"
    ENGAGEMENT = "eng"
    TIME_ENTRY = "tim"
    INVOICE = "inv"
    LINE = "lin"
    CREDIT_NOTE = "crn"
    CREDIT = "crd"
    TAX_RATE = "tax"
    COVERAGE = "cov"
    DOCUMENT = "doc"
    PAYMENT = "pay"
    ATTEMPT = "att"
    PAYMENT_METHOD = "pm"
    PROVIDER_CUSTOMER = "pcu"
    SETUP_INTENT = "set"
    ALLOCATION = "alo"
    HOLD = "hld"
    REFUND = "ref"
    CHECKOUT_SESSION = "chk"
    HOSTED_LINK = "lnk"
    QR_PAYMENT = "qrp"
    PLAN = "pln"
    PRICE = "prc"
    SUBSCRIPTION = "sub"
    SUBSCRIPTION_ITEM = "sui"
    TRIAL = "trl"
    METER = "mtr"
    USAGE = "usg"
    QUOTA = "quo"
    COUPON = "cpn"
    COUPON_REDEMPTION = "cpr"
    DISPUTE = "dsp"
    EVIDENCE = "evd"
    RUN = "run"
    API_KEY = "key"
    CLOCK = "clk"
    AUDIT = "aud"
    EVENT = "evt"
    PROVIDER_EVENT = "pev"
    WEBHOOK_ENDPOINT = "whe"
    DELIVERY = "dlv"
    MESSAGE = "msg"
    ACCOUNT = "acc"
    POSTING = "pst"
    JOURNAL_ENTRY = "jrn"
    APPROVAL = "apr"
    PROVIDER_ACCOUNT = "pva"
    IMPORT = "imp"


_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS: Final = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
# Crockford's digits to those of int(text, 32); every other byte to one that int() refuses.
_TO_BASE32: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(chr(byte))] if chr(byte) in _ALPHABET else ord("!")
    for byte in range(256)
)
_SUFFIX_LENGTH: Final = 26
_VARIANT: Final = 0b10 << 62
_V7: Final = 7 << 76
_V8: Final = 8 << 76
# Keeps everything but the four version bits and the two variant bits.
_FREE_BITS: Final = ((1 << 128) - 1) ^ (0xF << 76) ^ (0b11 << 62)

_last_tick = 0
_randoms: list[int] = []
# A forked child must not repeat its parent's random numbers.
os.register_at_fork(after_in_child=_randoms.clear)

_new_uuid = UUID.__new__
_set = object.__setattr__
_SAFETY: Final = SafeUUID.unknown


def _uuid(value: int) -> UUID:
    """``UUID(int=value)`` without its argument checks, which cost more than all the rest."""
    result = _new_uuid(UUID)
    _set(result, "int", value)
    _set(result, "is_safe", _SAFETY)
    return result


def uuid7() -> UUID:
    """A new version 7 UUID: milliseconds, 12 bits of sub-millisecond time, 62 random bits.

    Ascending within a process, also when the clock stands still or steps back.
    """
    global _last_tick
    milliseconds, rest = divmod(machine_ns(), 1_000_000)
    tick = (milliseconds << 12) | (rest * 4096 // 1_000_000)
    if tick <= _last_tick:
        tick = _last_tick + 1
    _last_tick = tick
    try:
        random = _randoms.pop()
    except IndexError:
        _randoms.extend(struct.unpack(">512Q", os.urandom(4096)))
        random = _randoms.pop()
    return _uuid(((tick >> 12) << 80) | _V7 | ((tick & 0xFFF) << 64) | _VARIANT | (random >> 2))


def derive_uuid(*parts: str | int | UUID | bytes) -> UUID:
    """The version 8 UUID that follows from ``parts``: the same parts give the same id, in every process and release.

    Start with a word naming what is derived, so that two kinds never meet. "1" and 1 are different parts.
    """
    value = int.from_bytes(digest_parts(parts)[:16], "big")
    return _uuid((value & _FREE_BITS) | _V8 | _VARIANT)


def encode(prefix: Prefix, uuid: UUID) -> str:
    """The text form of an id."""
    value = uuid.int
    # Two 65-bit halves: thirteen characters each, and cheaper shifts than on the whole.
    high, low = value >> 65, value & 0x1FFFFFFFFFFFFFFFF
    pairs = _PAIRS
    return (
        f"{prefix._value_}_{pairs[high >> 55]}{pairs[high >> 45 & 1023]}{pairs[high >> 35 & 1023]}"
        f"{pairs[high >> 25 & 1023]}{pairs[high >> 15 & 1023]}{pairs[high >> 5 & 1023]}"
        f"{pairs[(high & 31) << 5 | low >> 60]}{pairs[low >> 50 & 1023]}{pairs[low >> 40 & 1023]}"
        f"{pairs[low >> 30 & 1023]}{pairs[low >> 20 & 1023]}{pairs[low >> 10 & 1023]}{pairs[low & 1023]}"
    )


def decode(prefix: Prefix, text: str, field: str) -> UUID:
    """The UUID in ``text``, which must be an id of kind ``prefix`` around a version 7 or 8 UUID.

    Raises INVALID_ID naming ``field`` and the expected prefix.
    """
    head, _, suffix = text.rpartition("_")
    if head == prefix._value_ and len(suffix) == _SUFFIX_LENGTH and suffix[0] <= "7":
        try:
            value = int(suffix.encode("ascii").translate(_TO_BASE32), 32)
        except ValueError:  # a character outside the alphabet, or outside ASCII
            pass
        else:
            if value >> 76 & 0xF in (7, 8) and value >> 62 & 0b11 == 0b10:
                return _uuid(value)
    raise DunwellError(
        Reason.INVALID_ID,
        f"{field} must be an id of the form {prefix._value_}_ and {_SUFFIX_LENGTH} characters",
        field=field,
        metadata={"field": field, "expected_prefix": prefix._value_},
    )
