"""Which of some books have gone silent, and when that is to be said again. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SILENT_S: Final = 3.0
"""Publishers say something every second; this long without is worth a word (docs/wire.md)."""


class Silence:
    """Since when each book has said nothing."""

    def __init__(self, books: Iterable[str], *, now_s: float) -> None:
        """Begin to listen.

        Args:
            books: Whom to wait for.
            now_s: Monotonic time, as everywhere here.
        """
        self.has_heard = False
        """Whether anything came at all."""
        self._heard_at_s = dict.fromkeys(books, now_s)
        self._told: dict[str, int] = {}

    def hear(self, book: str, *, now_s: float) -> None:
        """Note that a book said something."""
        self.has_heard = True
        self._heard_at_s[book] = now_s
        self._told.pop(book, None)

    def silent(self, *, now_s: float) -> dict[str, float]:
        """Return for how many seconds each silent book has been so."""
        waits = {book: now_s - heard_at_s for book, heard_at_s in self._heard_at_s.items()}
        return {book: wait_s for book, wait_s in waits.items() if wait_s >= SILENT_S}

    def news(self, *, now_s: float) -> dict[str, float]:
        """Return the silent books as above, each only once in three seconds of its silence."""
        fresh = {}
        for book, wait_s in self.silent(now_s=now_s).items():
            if (times := int(wait_s / SILENT_S)) > self._told.get(book, 0):
                self._told[book] = times
                fresh[book] = wait_s
        return fresh
