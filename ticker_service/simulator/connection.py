"""One WebSocket of a client: reads its requests, writes its ticks, heartbeats and texts.

Policy for a reader that is too slow: ticks conflate to the latest packet per instrument
(``subscription``); texts wait in a bounded queue, and a connection whose queue is full, or whose
socket takes nothing for ``STALLED_S``, is cut off, because a text must not be lost in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final

import orjson
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from ticker_service.constants import NS_PER_S
from ticker_service.simulator.packets import PACKETS_PER_FRAME_MAX
from ticker_service.simulator.sent import SentPackets
from ticker_service.simulator.subscription import BadRequestError, Subscription

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.market import Changes, Market
    from ticker_service.simulator.sessions import Session, Sessions

HEARTBEAT: Final = b"\x00"
HEARTBEAT_S: Final = 1.0
STALLED_S: Final = 15.0
TEXTS_MAX: Final = 1_000


class Connection:
    """A client's open socket."""

    def __init__(
        self, socket: ServerConnection, session: Session, *, number: int, market: Market
    ) -> None:
        self.number = number
        self.session = session
        self.subscription = Subscription(market.catalogue.row_by_token)
        self.sent = SentPackets(market.catalogue.instrument_token)
        self._socket = socket
        self._market = market
        self._texts: deque[str] = deque()
        self._wake = asyncio.Event()
        self._muted_until_ns: int | None = 0

    async def serve(self, sessions: Sessions, clock: Clock) -> None:
        """Serve until the client leaves, its session ends or it is cut off."""
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(sessions, clock))
            await self._read()
            writer.cancel()

    def note(self, changes: Changes) -> None:
        """Take over the market's changes; the writer sends those that are subscribed."""
        if self.subscription.note(changes):
            self._wake.set()

    def sent_by_token(self) -> dict[str, str]:
        """Return what was sent last of what is subscribed: base64 by ``instrument_token``."""
        return self.sent.by_token(self._market.packets, self.subscription.is_subscribed())

    def send_text(self, kind: str, data: object) -> None:
        """Queue a text frame such as ``order`` or ``message``."""
        if len(self._texts) >= TEXTS_MAX:
            self.abort()
            return
        self._texts.append(orjson.dumps({"type": kind, "data": data}).decode())
        self._wake.set()

    def abort(self) -> None:
        """Cut the TCP connection without a close frame."""
        self._socket.transport.abort()

    def mute_until(self, until_ns: int | None) -> None:
        """Send heartbeats only until ``until_ns`` of the monotonic clock; None is for ever."""
        self._muted_until_ns = until_ns
        self._wake.set()

    def is_muted(self, monotonic_ns: int) -> bool:
        """Return whether only heartbeats are being sent."""
        return self._muted_until_ns is None or monotonic_ns < self._muted_until_ns

    def muted_for_s(self, monotonic_ns: int) -> float | None:
        """Return the seconds that muting has left, None for ever."""
        if self._muted_until_ns is None:
            return None
        return max(0.0, (self._muted_until_ns - monotonic_ns) / NS_PER_S)

    def wake(self) -> None:
        """Let the writer look again: the session may have ended."""
        self._wake.set()

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in self._socket:
                try:
                    self.subscription.apply(frame)
                except BadRequestError as error:
                    self.send_text("error", str(error))
                self._wake.set()

    async def _write(self, sessions: Sessions, clock: Clock) -> None:
        try:
            await self._write_while_live(sessions, clock)
            await self._socket.close(CloseCode.POLICY_VIOLATION, "access token has ended")
        except ConnectionClosed:
            pass  # The reader sees it too, and ends the connection.
        except TimeoutError:
            self.abort()

    async def _write_while_live(self, sessions: Sessions, clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        heartbeat_at = loop.time()
        while sessions.is_live(self.session.access_token):
            sent = False
            if not self.is_muted(clock.monotonic_ns()):
                sent = await self._send_news()
            if not sent and loop.time() >= heartbeat_at:
                await self._send(HEARTBEAT)
                sent = True
            if sent:
                heartbeat_at = loop.time() + HEARTBEAT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(heartbeat_at):
                    await self._wake.wait()
            self._wake.clear()

    async def _send_news(self) -> bool:
        sent = False
        while self._texts:
            await self._send(self._texts.popleft())
            sent = True
        rows, mode = self.subscription.take_news()
        packets = self._market.packets
        for number, frame in enumerate(packets.frames(rows, mode)):
            part = slice(number * PACKETS_PER_FRAME_MAX, (number + 1) * PACKETS_PER_FRAME_MAX)
            self.sent.note(rows[part], mode[part], packets)
            await self._send(frame)
            sent = True
        return sent

    async def _send(self, frame: str | bytes) -> None:
        async with asyncio.timeout(STALLED_S):
            await self._socket.send(frame)
