"""Tell subscribers how their feed is: up, down, silent, its market closed, words of the broker.

Beside the path, kept by the engine and called by the path's task alone, so that whatever is said
stands between the right ticks. A loss is always told before the ticks that follow it (M6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.market import decode, validate
from ticker_service.market.connections import Connection, Connections, FeedState
from ticker_service.market.opening import Opening
from ticker_service.market.packets import HEARTBEAT_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from ticker_service.config import EngineConfig
    from ticker_service.domain.universe import Universe
    from ticker_service.market.connections import Silence
    from ticker_service.market.pipeline import TickPath
    from ticker_service.ports import FeedDown, FeedSource, FeedText, FeedUp, Frame
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

HEARTBEATS_ONLY: Final = "heartbeats_only"
"""Why ticks may be missing of a connection that was open all the time."""
FAILOVER: Final = "failover"
"""Why ticks may be missing of a connection that another account's login has taken over."""
RESTART: Final = "restart"
"""Why ticks may be missing between an earlier run of the daemon and this one."""
RENEW_AFTER_S: Final = 30.0
"""A connection that stays silent so long is opened anew: a new socket may be fed better."""
TEXT_INTERVAL_NS: Final = 1_000_000_000
TEXT_CHARACTERS_MAX: Final = 500
LOGIN_ADVICE: Final = (
    "log in again with `ticker-service login`; without accounts, restart with a new token"
)


class FeedWatch:
    """Connections and markets, and what has been said of them."""

    def __init__(
        self,
        universe: Universe,
        config: EngineConfig,
        *,
        path: TickPath,
        feed: FeedSource,
        surroundings: Surroundings,
        earlier_ns: Mapping[int, int],
    ) -> None:
        """Take whom to watch, through whom to speak, and until when an earlier run served a book.

        The last by book number, ns since the Unix epoch; books that nobody served are not in it.
        """
        self.connections = Connections(universe)
        self._universe = universe
        self._limits = config.validation
        self._opening = Opening(universe, config.hours)
        self._path = path
        self._feed = feed
        self._clock = surroundings.clock
        self._earlier_ns = dict(earlier_ns)
        self._is_audible = np.zeros(len(universe), np.bool_)
        self._watched_ns = self._clock.monotonic_ns()
        self._said_at_ns = 0
        telemetry = surroundings.telemetry
        self._up = telemetry.gauge("feed_connections_up", "Connections that bring ticks")
        self._silent = telemetry.gauge(
            "feed_connections_silent", "Connections that are open and bring heartbeats alone"
        )

    def feed_of_book(self) -> dict[int, str]:
        """Return the worst state of what carries each book, by its number."""
        books = range(len(self._universe.books))
        return {book: str(self.connections.worst(book)) for book in books}

    def open_books(self) -> Collection[int]:
        """Return the books whose market is open."""
        return self._opening.open_books

    async def look(self, *, seen_until_ns: int) -> None:
        """Look after markets and silences; once a second.

        Args:
            seen_until_ns: Up to when everything that was received has gone down the path. While
                Redis stands still that is long ago, and what waits since then is no silence.
        """
        now_ns = self._clock.now_ns()
        for turn in self._opening.advance(now_ns):
            log.info(turn.state, book=self._universe.books[turn.book], reason=turn.reason)
            await self._path.announce_status([turn.book], turn.state, turn.reason)
        await self._look_for_silence(seen_until_ns)
        self._let_time_pass()

    async def came_up(self, event: FeedUp) -> None:
        """Tell that a connection is open and subscribed, and before that what was lost."""
        number = event.connection
        if event.is_failover:
            self.connections.of(number).reason = FAILOVER
        await self._announce_restart(to_ns=event.at_ns)
        await self._announce_loss(number, to_ns=event.at_ns)
        self.connections.replace(number, Connection(state=FeedState.UP, up_ns=event.at_ns))
        # Everything on it was subscribed anew, and Kite sends again what it had kept.
        self._path.subscribed(self.connections.rows_of(number), since_ns=event.at_ns)
        log.info("feed_up", connection=number, account=event.account)
        why = "subscribed, with another account's login" if event.is_failover else "subscribed"
        await self._announce(number, "feed_up", why)

    async def went_down(self, event: FeedDown) -> None:
        """Tell that a connection is gone; several failed attempts are one outage."""
        connection = self.connections.of(event.connection)
        was_down = connection.state in {FeedState.DOWN, FeedState.LOGIN_REQUIRED}
        connection.state = FeedState.LOGIN_REQUIRED if event.login_required else FeedState.DOWN
        log.warning(
            "login_required" if event.login_required else "feed_down",
            connection=event.connection,
            reason=event.reason,
            silent_ms=(event.at_ns - event.last_frame_ns) // NS_PER_MS,
            **({"advice": LOGIN_ADVICE} if event.login_required else {}),
        )
        self._path.doubt(self.connections.rows_of(event.connection))
        # It began with the last frame before the first attempt, or with the last tick if only
        # heartbeats came after it.
        connection.lost_since_ns = connection.lost_since_ns or event.last_frame_ns
        connection.reason = connection.reason or event.reason
        if event.login_required or not was_down:
            state = "login_required" if event.login_required else "feed_down"
            await self._announce(event.connection, state, event.reason)

    async def broker_says(self, event: FeedText) -> None:
        """Pass on what the broker says in words, such as that it ignored a subscription."""
        if event.at_ns - self._said_at_ns < TEXT_INTERVAL_NS:
            return  # counted by the engine; one a second says it
        self._said_at_ns = event.at_ns
        words = _words(event.data)
        log.warning("feed_text", kind=event.kind, data=words)
        if event.kind in {"error", "message"}:
            await self._announce(event.connection, f"feed_{event.kind}", words)

    def may_end_silence(self, frame: Frame) -> bool:
        """Return whether a frame has data and is of a connection that is silent.

        Whether it does is to be asked when the frames before it have been flushed.
        """
        is_data = len(frame.payload) > HEARTBEAT_BYTES_MAX
        return is_data and frame.connection in self.connections.in_state(FeedState.SILENT)

    def ends_silence(self, frame: Frame, wanted: NDArray[np.bool_]) -> bool:
        """Return whether a flush of a frame would publish a tick that Kite had not kept.

        What it had kept, or what is refused, is no tick that comes again. Nothing is remembered of
        the frame: it is read twice, once here and once by the flush, which the gap has to precede.

        Args:
            frame: One binary message.
            wanted: Mask of the universe rows that are subscribed.
        """
        accepted = validate.plausible(
            decode.frames([frame]).ticks,
            self._universe,
            self._path.streams,
            wanted=wanted,
            limits=self._limits,
        )
        return not accepted.marks.is_cached.all()

    async def spoke_again(self, frame: Frame) -> None:
        """Tell that a silence is over; the frame that ended it is still to be taken."""
        await self._end_silence(frame.connection, frame.received_at_ns, "ticks come again")

    async def _look_for_silence(self, now_ns: int) -> None:
        is_open = self._opening.is_open
        silences = self.connections.silences(
            self._path.streams, is_open, opened_ns=self._opening.changed_ns, now_ns=now_ns
        )
        for silence in silences:
            await self._fell_silent(silence, now_ns)
        for number in self.connections.in_state(FeedState.SILENT):
            connection = self.connections.of(number)
            if self.connections.expects_nothing(number, is_open):
                await self._end_silence(number, now_ns, "its market has closed")
            elif now_ns - connection.noticed_ns >= RENEW_AFTER_S * NS_PER_S:
                connection.noticed_ns = now_ns
                self._feed.renew(number)

    async def _fell_silent(self, silence: Silence, now_ns: int) -> None:
        number = silence.connection
        connection = self.connections.of(number)
        connection.state, connection.noticed_ns = FeedState.SILENT, now_ns
        connection.lost_since_ns = connection.lost_since_ns or silence.since_ns
        connection.reason = connection.reason or HEARTBEATS_ONLY
        log.warning(
            "feed_silent",
            connection=number,
            waited_s=round(silence.waited_s, 1),
            expected_per_s=round(silence.expected_per_s, 2),
        )
        self._path.doubt(self.connections.rows_of(number))
        usual = f"{silence.expected_per_s:.1f} a second are usual"
        await self._announce(
            number, "feed_silent", f"no tick for {silence.waited_s:.0f} s, {usual}"
        )

    async def _end_silence(self, number: int, at_ns: int, why: str) -> None:
        await self._announce_loss(number, to_ns=at_ns)
        up_ns = self.connections.of(number).up_ns
        self.connections.replace(number, Connection(state=FeedState.UP, up_ns=up_ns))
        log.info("feed_speaks", connection=number, reason=why)
        await self._announce(number, "feed_up", why)

    async def _announce(self, number: int, state: str, reason: str) -> None:
        """Tell the books of a connection how it is."""
        self._up.set(self.connections.count(FeedState.UP))
        self._silent.set(self.connections.count(FeedState.SILENT))
        await self._path.announce_status(self.connections.books_of(number), state, reason)

    async def _announce_restart(self, *, to_ns: int) -> None:
        """Tell once what lies between an earlier run and the first connection of this one.

        All instruments of a book are told: which of them the earlier run had subscribed, nobody
        knows.
        """
        earlier_ns, self._earlier_ns = self._earlier_ns, {}
        for book, since_ns in earlier_ns.items():
            rows = np.flatnonzero(self._universe.book == book)
            await self._path.announce_gap(rows, from_ns=since_ns, to_ns=to_ns, reason=RESTART)

    async def _announce_loss(self, number: int, *, to_ns: int) -> None:
        connection = self.connections.of(number)
        if connection.lost_since_ns:
            await self._path.announce_gap(
                self.connections.rows_of(number),
                from_ns=connection.lost_since_ns,
                to_ns=to_ns,
                reason=connection.reason,
            )

    def _let_time_pass(self) -> None:
        """Count time for the streams that could be heard."""
        now_ns = self._clock.monotonic_ns()
        lasted_ns, self._watched_ns = now_ns - self._watched_ns, now_ns
        self._path.watch(lasted_ns=lasted_ns)
        is_audible = self.connections.is_heard() & self._opening.is_open
        if (is_audible != self._is_audible).any():
            self._is_audible = is_audible
            self._path.audible(np.flatnonzero(is_audible))


def _words(data: object) -> str:
    try:
        return str(data)[:TEXT_CHARACTERS_MAX]
    except RecursionError:
        return "(nested too deeply to be shown)"
