"""The append-only ledger: what really reached the order routes and what came of it.

Ground truth for tests of order programs. A request leaves one ``received`` entry once its last
byte is in, one ``accepted`` or ``refused`` if it wanted to change something, and one ``answered``.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ticker_service.runtime.clock import Clock

BYTES_MAX: Final = 512 << 20
"""A run that writes more loses its oldest entries, which their numbers show. An order with all that
comes of it takes some 5 kB, so a hundred thousand orders are kept."""


class EntryKind(StrEnum):
    """What an entry tells."""

    RECEIVED = "received"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    STATUS = "status"
    TRADE = "trade"
    ANSWERED = "answered"


class Ledger:
    """Numbered entries, the first is 1."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: list[dict[str, object]] = []
        self._dropped = 0
        self._bytes = 0

    @property
    def last_number(self) -> int:
        """The number of the latest entry; 0 before the first."""
        return self._dropped + len(self._entries)

    def append(
        self,
        kind: EntryKind,
        *,
        user_id: str | None,
        order_id: str | None = None,
        tag: str | None = None,
        **facts: object,
    ) -> int:
        """Write an entry and return its number."""
        number = self.last_number + 1
        entry = {
            "number": number,
            "at_us": self._clock.now_ns() // NS_PER_US,
            "kind": kind.value,
            "user_id": user_id,
            "order_id": order_id,
            "tag": tag,
            **facts,
        }
        self._entries.append(entry)
        self._bytes += _bytes_of(entry)
        if self._bytes > BYTES_MAX and len(self._entries) > 1:
            self._drop_older_half()
        return number

    def after(self, number: int = 0) -> list[Mapping[str, object]]:
        """Return the entries with higher numbers, oldest first."""
        return list(self._entries[max(number - self._dropped, 0) :])

    def of_kind(self, kind: EntryKind) -> Iterator[Mapping[str, object]]:
        """Yield the entries of one kind, oldest first."""
        return (each for each in self._entries if each["kind"] == kind.value)

    def _drop_older_half(self) -> None:
        half = len(self._entries) // 2
        del self._entries[:half]
        self._dropped += half
        self._bytes = sum(map(_bytes_of, self._entries))


def _bytes_of(value: object) -> int:
    """Return about what a value takes in memory: texts, numbers, and mappings and lists of them."""
    own = sys.getsizeof(value)
    if isinstance(value, dict):
        return own + sum(map(_bytes_of, value.values()))
    if isinstance(value, list | tuple):
        return own + sum(map(_bytes_of, value))
    return own
