"""Learn what the broker says of one account's orders: by its book, and by the feed's updates.

Path: order -> admit -> journal -> execute -> [settle] -> report. This says when the book is read; a
pass over it is `orders.book`'s, and merging is `orders.reconcile`'s. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from ticker_service.errors import BrokerUnavailable, JournalUnavailable, LoginRequired
from ticker_service.runtime.bell import Bell, ring_within

if TYPE_CHECKING:
    from ticker_service.config import OrdersConfig
    from ticker_service.domain.order import BrokerOrder
    from ticker_service.orders.book import BookKeeper
    from ticker_service.orders.execute import Executor
    from ticker_service.orders.positions import Positions
    from ticker_service.orders.reconcile import Reconciler
    from ticker_service.orders.standing import Standing

log = structlog.get_logger()


class BookWatch:
    """Keeps one account's orders true to its broker's book."""

    def __init__(  # noqa: PLR0913 - the parts of looking
        self,
        book: BookKeeper,
        *,
        reconciler: Reconciler,
        positions: Positions,
        executor: Executor,
        standing: Standing,
        config: OrdersConfig,
        news: Bell,
    ) -> None:
        """Take the parts.

        Args:
            book: Makes the passes.
            reconciler: Merges updates.
            positions: Hears of orders that were placed elsewhere.
            executor: Is told when the broker takes the access token again.
            standing: Is told what a pass says of the account.
            config: How often it is read, and how many updates may wait.
            news: Rung when there may be new events.
        """
        self.book = book
        self.wanted = Bell()
        """Rung when the book is to be read soon."""
        self.updates_dropped = 0
        """Updates of the feed that found no room; the broker's book tells the same."""
        self._account = reconciler.account
        self._reconciler = reconciler
        self._positions = positions
        self._executor = executor
        self._standing = standing
        self._news = news
        self._live_s = config.book_poll_live_s
        self._period_s = config.book_poll_idle_s
        self._updates: asyncio.Queue[BrokerOrder] = asyncio.Queue(maxsize=config.waiting_max)

    @property
    def is_idle(self) -> bool:
        """Whether the book is read now and then only: nothing was live or unknown in the last."""
        return self._period_s > self._live_s

    def take_update(self, row: BrokerOrder) -> None:
        """Take an order update of the feed; when too many wait, the next book tells the same."""
        # Before it waits or is dropped: a book without this order is not whole.
        self._reconciler.learn([row])
        if not self._reconciler.has_our_tag(row):
            self._positions.hear(row)
        try:
            self._updates.put_nowait(row)
        except asyncio.QueueFull:
            self.updates_dropped += 1
            self.wanted.ring()

    async def run(self) -> None:
        """Read the broker's book: often while something is live or unknown, now and then if not."""
        while True:
            ring = self.wanted.listen()
            refusals = self._executor.refusals
            try:
                self._period_s = await self.book.read()
            except LoginRequired as error:
                self._standing.needs_login(str(error))
            except (BrokerUnavailable, JournalUnavailable) as error:
                log.warning("book_not_read", account=self._account, error=str(error))
            else:
                # A token that was refused or ended meanwhile is not proven by this book.
                if refusals == self._executor.refusals:
                    self._executor.token_is_good()
                    self._standing.open(is_uncompared=self._executor.holds.is_uncompared)
            await ring_within(self._period_s, ring)

    async def merge_updates(self) -> None:
        """Merge the feed's order updates as they come; one that fails is in the next book."""
        while True:
            row = await self._updates.get()
            try:
                if await self._reconciler.merge_row(row):
                    self._news.ring()
            except JournalUnavailable as error:
                log.warning("update_not_merged", account=self._account, error=str(error))
                self.wanted.ring()
