"""Wake everybody who waits for news, without keeping the news."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung when there is something to look at; who was not waiting looks anyway.

    Holds nothing per listener, so a slow one costs nothing: it reads on from its own cursor.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Return the event of the next ring; take it before looking, wait for it afterwards."""
        return self._event


async def ring_within(period_s: float, ring: asyncio.Event) -> None:
    """Return at the ring that was listened for, or when a period is over."""
    try:
        async with asyncio.timeout(period_s):
            await ring.wait()
    except TimeoutError:
        return
