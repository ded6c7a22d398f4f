"""The latest row of every instrument of a book, kept by a reader from what it yields. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.client.rows import Arrays, Rows, missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.client.messages import Message

TOKEN: Final = "instrument_token"  # noqa: S105 - Kite's word for an instrument's number


class BookTable(Rows):
    """One row per instrument, sorted by ``instrument_token``; owned by the reader's task.

    Attributes:
        book: The book's name.
        epoch: Of the publisher that the rows come from; 0 before the first snapshot.
        seq: The number of the message up to which the rows are true.
        is_current: Whether nothing is known to be missing: False before the first snapshot, and
            from a loss until the snapshot that makes it good.
        feed: What the publisher last said of its own feed: ``up``, ``down`` and the like; None
            before its first heartbeat.
    """

    def __init__(self, book: str) -> None:
        self.book = book
        self.epoch = 0
        self.seq = 0
        self.is_current = False
        self.feed: str | None = None
        self._columns: Arrays = {TOKEN: np.empty(0, np.uint32)}

    @property
    def names(self) -> list[str]:
        """The columns' names, in their order."""
        return list(self._columns)

    def __len__(self) -> int:
        """Return the number of instruments."""
        return len(self._columns[TOKEN])

    def to_numpy(self) -> Arrays:
        """Return a copy of every column; see :meth:`Rows.to_numpy`."""
        return {name: column.copy() for name, column in self._columns.items()}

    def row(self, instrument_token: int) -> dict[str, Any] | None:
        """Return the latest row of one instrument, None if it has none."""
        tokens = self._columns[TOKEN]
        place = int(np.searchsorted(tokens, instrument_token))
        if place == len(tokens) or tokens[place] != instrument_token:
            return None
        return _OneRow(self._columns, place).rows()[0]

    def take(self, message: Message) -> None:
        """Bring the table up to a message of its book."""
        if message.kind == "missed":
            self.is_current = False
            return
        if message.body["epoch"] != self.epoch:
            self.is_current = False  # a new run has begun, and its snapshot is still to come
        self.epoch, self.seq = message.body["epoch"], message.body["seq"]
        if message.kind == "snapshot":
            self._replace(message.to_numpy())
            self.is_current = True
        elif message.kind == "batch":
            self._update(message.to_numpy())
        elif message.kind == "heartbeat":
            self.feed = message.body.get("feed")

    def prune(self, snapshot: Message) -> None:
        """Drop the instruments that a snapshot no longer holds: they are not subscribed any more.

        A row that came after the snapshot was made stays; the next one will tell.
        """
        tokens = self._columns[TOKEN]
        is_held = np.isin(tokens, snapshot.to_numpy()[TOKEN])
        received_us = self._columns.get("received_at_us", np.zeros(len(tokens), np.int64))
        kept = is_held | (received_us >= snapshot.body["published_at_us"])
        if not kept.all():
            self._columns = {name: column[kept] for name, column in self._columns.items()}

    def _replace(self, columns: Arrays) -> None:
        order = np.argsort(columns[TOKEN], kind="stable")
        # A copy: what came may lie in the message's memory, which cannot be written to.
        self._columns = {name: column[order].copy() for name, column in columns.items()}

    def _update(self, columns: Arrays) -> None:
        tokens = columns[TOKEN]
        self._make_room(np.unique(tokens), columns)
        places = np.searchsorted(self._columns[TOKEN], tokens)
        for name, column in columns.items():
            # Where an instrument occurs more than once, the last value stays.
            self._columns[name][places] = column

    def _make_room(self, tokens: NDArray[np.uint32], columns: Arrays) -> None:
        """Add what the table has no row or no column for yet."""
        own = self._columns[TOKEN]
        for name in columns.keys() - self._columns.keys():
            self._columns[name] = missing(name, len(own))
        news = np.setdiff1d(tokens, own, assume_unique=True)
        if not len(news):
            return
        order = np.argsort(np.concatenate([own, news]), kind="stable")
        for name, column in self._columns.items():
            added = news if name == TOKEN else missing(name, len(news))
            self._columns[name] = np.concatenate([column, added])[order]


class _OneRow(Rows):
    def __init__(self, columns: Arrays, place: int) -> None:
        self._arrays = {name: column[place : place + 1] for name, column in columns.items()}

    @property
    def names(self) -> list[str]:
        return list(self._arrays)

    def __len__(self) -> int:
        return 1

    def to_numpy(self) -> Arrays:
        return self._arrays
