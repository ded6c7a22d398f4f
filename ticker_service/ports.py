"""What the engine needs from the outside, named for the need and not for a product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.domain.tick import Mode


@dataclass(frozen=True, slots=True)
class Frame:
    """One binary WebSocket message as it came, and when (ns since the Unix epoch)."""

    received_at_ns: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedUp:
    """A connection is open and has asked for its instruments."""

    connection: int
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedDown:
    """A connection is gone; ``last_frame_ns`` is the last moment it was known to be alive."""

    connection: int
    at_ns: int
    last_frame_ns: int
    reason: str
    login_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedText:
    """A text message of the broker: an order update, an error, a notice, or what we do not know."""

    connection: int
    at_ns: int
    kind: str
    data: object


FeedEvent = FeedUp | FeedDown | FeedText


class FeedSink(Protocol):
    """Where a feed puts what it receives; neither call waits."""

    def put_frame(self, frame: Frame) -> None:
        """Take a binary message."""
        ...

    def put_event(self, event: FeedEvent) -> None:
        """Take a change of state or a text message, in order with the frames."""
        ...


class FeedSource(Protocol):
    """A market data feed that keeps itself connected and subscribed."""

    def want(self, modes: Mapping[int, Mode]) -> None:
        """Make ``token -> mode`` the whole of what is subscribed, now and after a reconnect."""
        ...

    def connection_of(self, instrument_token: int) -> int | None:
        """Return the number of the connection that carries a token, if it is subscribed."""
        ...

    async def run(self, sink: FeedSink) -> None:
        """Receive until cancelled; returns early only when a new login is required."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What one flush sends, in order: messages to channels, then values to keys.

    ``values`` are ``(key, value, lifetime in ms)``.
    """

    messages: Sequence[tuple[str, bytes]] = ()
    values: Sequence[tuple[str, bytes, int]] = ()


class TickPublisher(Protocol):
    """The distributor of messages to subscribers."""

    async def send(self, outgoing: Outgoing) -> None:
        """Send everything in order in one exchange.

        Raises:
            PublishError: Not confirmed; some or all of it may have been delivered.
        """
        ...

    async def close(self) -> None:
        """Give the connection back."""
        ...


class InstrumentCatalog(Protocol):
    """Where the instruments of the day come from."""

    async def fetch(self) -> InstrumentTable:
        """Return the whole dump.

        Raises:
            BrokerUnavailable: It could not be fetched; trying again is safe.
            CatalogError: What came is not a dump.
        """
        ...
