"""Deliver an account's events to a sink in order, each at least once, across restarts.

Path: order -> admit -> journal -> execute -> settle -> [report]. Events are rows of the journal,
written with the change they tell of; what is left is to read on from a cursor, in the journal what
this process has not written itself. A sink that is down holds its own cursor back and nothing else
(I9).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.errors import JournalUnavailable, PublishError
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    from ticker_service.domain.order import Account
    from ticker_service.orders.event_tail import EventTail
    from ticker_service.ports import OrderEventSink, OrderJournal
    from ticker_service.runtime.bell import Bell
    from ticker_service.runtime.crash_points import Reach
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

EVENTS_PER_READ_MAX: Final = 200
POLL_S: Final = 1.0
"""The bell is a hint; an event that nobody rang for is found within this."""
CURSOR_S: Final = 0.25
"""The cursor in the journal is written so often at most: after a crash so much comes once more."""
RETRY: Final = Backoff(delay_s_min=0.1, delay_s_max=5.0)


async def deliver(  # noqa: PLR0913 - one line of work with all it needs
    account: Account,
    sink: OrderEventSink,
    sink_name: str,
    *,
    journal: OrderJournal,
    tail: EventTail,
    bell: Bell,
    surroundings: Surroundings,
    reach: Reach,
) -> None:
    """Deliver until cancelled.

    Args:
        account: Whose events.
        sink: Where they go.
        sink_name: The cursor's name in the journal.
        journal: Where the cursor is.
        tail: Where they are.
        bell: Rung when there may be new ones.
        surroundings: Source of the retries' jitter.
        reach: Told ``C7`` before events that are committed are handed on.
    """
    clock, failures = surroundings.clock, 0
    cursor, written, write_at_ns = -1, -1, 0
    while True:
        news = bell.listen()
        try:
            if cursor < 0:
                cursor = written = await journal.delivered_seq(account, sink_name)
            events = await tail.after(cursor, limit=EVENTS_PER_READ_MAX)
            if events:
                reach("C7")
                await sink.publish(account, events)
                cursor = events[-1].account_seq
            if cursor > written and (not events or clock.monotonic_ns() >= write_at_ns):
                await journal.set_delivered(account, sink_name, cursor)
                written = cursor
                write_at_ns = clock.monotonic_ns() + int(CURSOR_S * NS_PER_S)
        except (JournalUnavailable, PublishError) as error:
            if not failures:
                log.warning(
                    "order_events_delayed", account=account, sink=sink_name, error=str(error)
                )
            cursor = -1  # what was delivered is what the journal says
            await asyncio.sleep(RETRY.delay_s(failures, surroundings.chance))
            failures += 1
            continue
        if failures:
            log.info("order_events_resumed", account=account, sink=sink_name)
        failures = 0
        if len(events) < EVENTS_PER_READ_MAX:
            await wait_for_news(news, for_s=POLL_S if cursor == written else CURSOR_S)


async def wait_for_news(news: asyncio.Event, *, for_s: float = POLL_S) -> None:
    """Wait until the bell rings, or long enough to look anyway."""
    try:
        async with asyncio.timeout(for_s):
            await news.wait()
    except TimeoutError:
        return
