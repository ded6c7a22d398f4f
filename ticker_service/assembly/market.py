"""Put the tick path together on the real feed and Redis, and replay what was recorded."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from ticker_service.accounts.breaker import Breaker
from ticker_service.accounts.token_watch import FixedToken, WatchedLogins
from ticker_service.adapters.kite_feed import KiteFeed
from ticker_service.adapters.kite_instruments import KiteInstruments
from ticker_service.adapters.record_folder import LocalFolder
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.adapters.silent_publisher import SilentPublisher
from ticker_service.assembly.dials import BREAKER_OPEN, breaker_rules, show_breaker
from ticker_service.constants import NS_PER_US
from ticker_service.domain import trading_hours, universe
from ticker_service.domain.breaker import BreakerName
from ticker_service.domain.order import Account
from ticker_service.domain.session import ist_date
from ticker_service.engine import Engine
from ticker_service.errors import (
    ConfigurationError,
    RecordingError,
)
from ticker_service.market import subscribe
from ticker_service.market.publish import SNAPSHOT_LIFETIME_MS
from ticker_service.market.record import Recorder
from ticker_service.market.replay import Recording
from ticker_service.market.tape import Tape
from ticker_service.ports import FeedLogin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from ticker_service.config import (
        EngineConfig,
        HoursConfig,
        RecordConfig,
    )
    from ticker_service.domain.trading_hours import Calendar
    from ticker_service.orders.office import OrderOffice
    from ticker_service.ports import (
        AccessTokenSource,
        ColumnParts,
        ConnectGate,
        TickPublisher,
    )
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

RENEWED_MS_MAX: Final = 1_500
"""A living publisher renews its snapshots more often than this."""
MS_PER_S: Final = 1_000


async def assemble(
    config: EngineConfig,
    surroundings: Surroundings,
    *,
    office: OrderOffice | None = None,
    record: RecordConfig | None = None,
) -> Engine:
    """Reach everything the engine needs once, and build it.

    Args:
        config: The tick half's settings.
        surroundings: Time, chance, metrics.
        office: The order half: it takes the order updates that come with the ticks, and a login of
            one of its accounts serves the feed as well.
        record: What to record; None for nothing.

    Raises:
        PublishError: Redis does not answer.
        BrokerUnavailable: The instruments dump could not be fetched.
        CatalogError: The dump is malformed or lacks what the settings name.
        ConfigurationError: One api_key cannot carry the subscription, or pyarrow is missing.
    """
    publisher: RedisPublisher | SilentPublisher = SilentPublisher()
    if config.redis_url:
        publisher = RedisPublisher(config.redis_url, channel_prefix=config.publish.channel_prefix)
        surroundings.telemetry.gauge(
            "redis_values_refused", "Snapshots and other keys that Redis refused, since the start"
        ).set_function(partial(getattr, publisher, "refused_values"))
    try:
        await publisher.check()
        dump = await KiteInstruments(config.kite).fetch()
        if office is not None and office.contracts is not None:
            await office.contracts.take(dump)
        chosen = universe.select(
            dump,
            underlyings=config.subscription.underlyings,
            instruments=config.subscription.instruments,
            expiries_max=config.subscription.expiries_max,
            today=ist_date(surroundings.clock.now_ns()),
        )
        subscribe.check_fits(chosen, config.subscription)
        earlier_ns = await _earlier_runs(
            publisher, chosen, config.publish.channel_prefix, surroundings.clock
        )
        engine = Engine(
            chosen,
            config,
            feed=KiteFeed(
                config.kite,
                tokens=_feed_tokens(config, office),
                clock=surroundings.clock,
                chance=surroundings.chance,
                gate=_feed_gate(config, surroundings, office),
            ),
            publisher=publisher,
            surroundings=surroundings,
            orders=office,
            recorder=_recorder(record, surroundings) if record else None,
            earlier_ns=earlier_ns,
        )
        if office is not None:
            office.take_ticks(engine.last_price)
    except BaseException:
        await publisher.close()
        raise
    return engine


async def _earlier_runs(
    publisher: RedisPublisher | SilentPublisher,
    chosen: universe.Universe,
    prefix: str,
    clock: Clock,
) -> dict[int, int]:
    """Return until when an earlier run served each book, by its number, ns since the Unix epoch.

    Told by the newest heartbeats. They are no truth to build on: a Redis that lost them
    only leaves unsaid what the new epoch says anyway.
    """
    keys = [f"{prefix}heartbeat:{book}" for book in chosen.books]
    earlier_ns = {}
    for book, raw in enumerate(await publisher.values(keys)):
        published_at_us = _published_at_us(raw)
        if 0 < published_at_us * NS_PER_US < clock.now_ns():
            earlier_ns[book] = published_at_us * NS_PER_US
    return earlier_ns


def _published_at_us(raw: bytes | None) -> int:
    """Return when a message was made, 0 if that is not to be read from it."""
    try:
        message = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        return 0
    at_us = message.get("published_at_us") if isinstance(message, dict) else None
    return at_us if isinstance(at_us, int) else 0


def _recorder(config: RecordConfig, surroundings: Surroundings) -> Recorder:
    parts = column_parts(config.folder) if config.columns else None
    log.info("recording", folder=str(config.folder.absolute()), columns=config.columns)
    return Recorder(config, LocalFolder(config.folder), surroundings, parts=parts)


def column_parts(folder: Path) -> ColumnParts:
    """Return where published columns go, as Parquet below a folder.

    Raises:
        ConfigurationError: pyarrow is not installed.
    """
    try:
        # pyarrow is optional and large: only who records columns loads it.
        adapter = import_module("ticker_service.adapters.parquet_parts")
    except ImportError as error:
        raise ConfigurationError(
            "columns are recorded as Parquet, which needs pyarrow, which is not installed: "
            "pip install 'ticker-service[arrow]', or set record_columns = false"
        ) from error
    parts: ColumnParts = adapter.ParquetParts(folder)
    return parts


@asynccontextmanager
async def open_recordings(files: Sequence[Path]) -> AsyncIterator[list[Recording]]:
    """Open recordings for a replay, in the order given.

    Raises:
        RecordingError: One cannot be read; the message names it.
    """
    with ExitStack() as stack:
        try:
            opened = [stack.enter_context(file.open("rb")) for file in files]
        except OSError as error:
            raise RecordingError(f"{error.filename}: {error.strerror}") from error
        yield [
            Recording.of(Tape(each, str(file))) for each, file in zip(opened, files, strict=True)
        ]


@asynccontextmanager
async def replay_publisher(
    redis_url: str, recordings: Sequence[Recording], *, channel_prefix: str
) -> AsyncIterator[TickPublisher]:
    """Open what a replay publishes to.

    Args:
        redis_url: The server; empty to publish nothing.
        recordings: What is about to be published.
        channel_prefix: Under which prefix.

    Raises:
        PublishError: Redis does not answer.
        ConfigurationError: Somebody publishes the same books under that prefix now: prices of
            another day between those of today would be wrong numbers that look right.
    """
    if not redis_url:
        yield SilentPublisher()
        return
    publisher = RedisPublisher(redis_url, channel_prefix=channel_prefix)
    try:
        await publisher.check()
        books = {book for each in recordings for book in each.header.universe.books}
        keys = [
            f"{channel_prefix}{name}:{book}"
            for book in sorted(books)
            for name in ("snapshot", "arrow-snapshot")
        ]
        if await _is_renewed(publisher, keys):
            raise ConfigurationError(
                f"channel_prefix={channel_prefix!r}: somebody publishes these books there now; "
                "wait until they have stopped, or choose another prefix"
            )
        yield publisher
    finally:
        await publisher.close()


async def _is_renewed(publisher: RedisPublisher, keys: Sequence[str]) -> bool:
    """Return whether somebody keeps setting these keys; what a dead one left only grows older."""
    life_ms = SNAPSHOT_LIFETIME_MS - RENEWED_MS_MAX
    if await publisher.longest_life_ms(keys) < life_ms:
        return False
    await asyncio.sleep(2.0 * RENEWED_MS_MAX / MS_PER_S)
    return await publisher.longest_life_ms(keys) >= life_ms


def _feed_tokens(config: EngineConfig, office: OrderOffice | None) -> AccessTokenSource:
    """Return what the feed may log in with: of its accounts, or the token of the settings."""
    if office is None or not config.feed_accounts:
        return FixedToken(config.kite.access_token)
    given = FeedLogin(access_token=config.kite.access_token, api_key=config.kite.api_key)
    return WatchedLogins(office.tokens, config.feed_accounts, given=given)


def calendar_of(hours: HoursConfig) -> Calendar:
    """Return when the markets trade, with the holidays and sessions of the settings."""
    return trading_hours.calendar(
        holidays=hours.holidays, sessions=hours.sessions, is_always_open=hours.is_always_open
    )


def _feed_gate(
    config: EngineConfig, surroundings: Surroundings, office: OrderOffice | None
) -> ConnectGate:
    """Return the feed's breaker: of the account whose logins serve it, or one of its own."""
    if office is not None and config.feed_accounts:
        return office.front.desks[Account(config.feed_accounts[0].account)].breakers.feed
    shown = surroundings.telemetry.gauge("feed_breaker_open", BREAKER_OPEN)
    return Breaker(
        "feed",
        rules=breaker_rules(config.breakers, BreakerName.FEED),
        clock=surroundings.clock,
        on_change=partial(show_breaker, shown, "", BreakerName.FEED),
    )
