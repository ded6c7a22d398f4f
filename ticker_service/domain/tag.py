"""The tag of one physical send: how an order found in the broker's book names its attempt.

Twenty characters of ``[A-Z0-9]``, Kite's limit (kite.md §2.3): product prefix 1, installation 2,
task 13, attempt 2, checksum 2. The checksum tells our tags from foreign and garbled ones. Pure.
Source: reliability.md §1.6.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import uuid

PREFIX: Final = "T"
TAG_CHARACTERS: Final = 20
ATTEMPTS_MAX: Final = 1_023
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: no I, L, O, U
_TASK_CHARACTERS: Final = 13
_CHECK_MODULUS: Final = 1_024


def tag_of(installation: str, task_id: uuid.UUID, attempt: int) -> str:
    """Return the tag of one attempt at one task.

    Args:
        installation: Two characters of ``[A-Z0-9]`` that tell daemons of one account apart.
        task_id: The task; its random 64 bits go into the tag.
        attempt: Counts from 1.
    """
    if len(installation) != 2 or not installation.isalnum() or not installation.isascii():  # noqa: PLR2004
        raise ValueError(f"Condition failed: installation={installation!r} must be two of A-Z0-9")
    if not 1 <= attempt <= ATTEMPTS_MAX:
        raise ValueError(f"Condition failed: attempt={attempt} must be 1 to {ATTEMPTS_MAX}")
    short = _base32(task_id.int & (1 << 64) - 1, _TASK_CHARACTERS)
    body = f"{PREFIX}{installation.upper()}{short}{_base32(attempt, 2)}"
    return body + _checksum(body)


def is_ours(tag: str, installation: str) -> bool:
    """Return whether a tag was made by this installation and came back whole."""
    return (
        len(tag) == TAG_CHARACTERS
        and tag.startswith(PREFIX + installation.upper())
        and tag[-2:] == _checksum(tag[:-2])
    )


def _checksum(body: str) -> str:
    return _base32(zlib.crc32(body.encode()) % _CHECK_MODULUS, 2)


def _base32(number: int, characters: int) -> str:
    digits = []
    for _ in range(characters):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
