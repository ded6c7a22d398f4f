"""The only place that picks real adapters and hands them to the engine."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from random import Random
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from ticker_service.accounts import login
from ticker_service.accounts.breaker import Breaker, BreakerChange, BreakerRules
from ticker_service.accounts.breakers import Breakers
from ticker_service.accounts.egress_watch import EgressWatch
from ticker_service.accounts.halts import Halts
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.accounts.limits import Lane, OrderLimits, Pacer
from ticker_service.accounts.reads import PacedReads, ReadPace
from ticker_service.accounts.token_watch import FixedToken, TokenWatch, WatchedLogins
from ticker_service.accounts.tokens import AccessToken, MemoryTokens, VaultTokens
from ticker_service.adapters import postgres_audit, postgres_migrate, postgres_rebuild
from ticker_service.adapters.egress_probe import EgressProbe
from ticker_service.adapters.kill_file import KillFile
from ticker_service.adapters.kite_broker import BrokerLane, BrokerOptions, KiteBroker
from ticker_service.adapters.kite_feed import KiteFeed
from ticker_service.adapters.kite_instruments import KiteInstruments
from ticker_service.adapters.kite_login import KiteLogin
from ticker_service.adapters.kite_session import Egress
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions, PoolOptions
from ticker_service.adapters.record_folder import LocalFolder
from ticker_service.adapters.redis_events import RedisOrderEvents
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.adapters.redis_servers import is_readable_url
from ticker_service.adapters.silent_publisher import SilentPublisher
from ticker_service.adapters.token_file import TokenFiles, read_credential
from ticker_service.config import KiteConfig
from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.domain import trading_hours, universe
from ticker_service.domain.breaker import BreakerName, BreakerState
from ticker_service.domain.egress import EgressVerdict, compared
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import Account
from ticker_service.domain.session import ist_date
from ticker_service.engine import Engine
from ticker_service.errors import (
    BrokerUnavailable,
    ConfigurationError,
    InvariantViolatedError,
    LoginRequired,
    MigrationsPending,
    RecordingError,
    TickerServiceError,
    UnknownAccount,
)
from ticker_service.market import subscribe
from ticker_service.market.publish import SNAPSHOT_LIFETIME_MS
from ticker_service.market.record import Recorder
from ticker_service.market.replay import Recording
from ticker_service.market.tape import Tape
from ticker_service.orders import loss_watch
from ticker_service.orders.audit import Differs
from ticker_service.orders.cancel_all import CancelAll
from ticker_service.orders.contract_watch import ContractWatch
from ticker_service.orders.desk import AccountDesk
from ticker_service.orders.execute import Executor
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.group_exposure import GroupExposure
from ticker_service.orders.last_prices import LastPricesOf, QuoteShelf
from ticker_service.orders.notices import Notices
from ticker_service.orders.office import OrderOffice
from ticker_service.orders.postbacks import Postbacks
from ticker_service.orders.risk_gate import RiskSources, RiskTables
from ticker_service.orders.risk_record import RiskRecord
from ticker_service.ports import FeedLogin
from ticker_service.runtime.crash_points import never
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from prometheus_client import Counter, Gauge

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.config import (
        AccountConfig,
        BreakerConfig,
        EngineConfig,
        HoursConfig,
        OrderHalfConfig,
        RecordConfig,
    )
    from ticker_service.domain.egress import EgressLook
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.journal_audit import Audit, JournalFault, Rebuild
    from ticker_service.domain.kill_switch import KillScope, KillSwitch
    from ticker_service.domain.order import NewTask
    from ticker_service.domain.risk import KeptLimits, RiskDenial
    from ticker_service.domain.trading_hours import Calendar
    from ticker_service.errors import RiskDenied
    from ticker_service.orders.audit import Difference
    from ticker_service.ports import (
        AccessTokenSource,
        BrokerGateway,
        ColumnParts,
        ConnectGate,
        ReadGate,
        SendGate,
        TickPublisher,
    )
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach

log = structlog.get_logger()

JOURNAL_LOOK_S: Final = 60.0
EVENTS_PER_LOOK: Final = 100
"""A look of the running daemon costs its loop a few milliseconds."""
NEWEST_EVENTS: Final = 1_000
"""So many events of an account a look that must not take long replays."""
CLOCK_AHEAD_S_MAX: Final = 2.0
"""Kite's Date header has whole seconds; beyond this the day roll and deadlines go wrong."""

RENEWED_MS_MAX: Final = 1_500
"""A living publisher renews its snapshots more often than this."""
MS_PER_S: Final = 1_000

BREAKER_OPEN: Final = (
    "1 while the broker is not asked because it fails, 0.5 while one request is tried"
)
PASSPHRASE_CREDENTIAL: Final = "ticker-service-tokens"  # noqa: S105 - a name, no secret


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


async def assemble_orders(
    config: OrderHalfConfig, surroundings: Surroundings, *, tokens: AccessTokens, reach: Reach
) -> OrderOffice:
    """Open the journal and build every account's desk; nothing is sent yet.

    Args:
        config: Accounts and limits.
        surroundings: Time, chance, metrics.
        tokens: Where logins leave access tokens.
        reach: The crash points.

    Raises:
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration, or may lose what it confirms; or the tokens
            cannot be read.
    """
    clock = surroundings.clock
    watch = await _watch_of(config, tokens, clock)
    journal = PostgresJournal(
        config.database_url,
        _journal_options(config),
    )
    await journal.open()
    events = RedisOrderEvents(config.redis_url, channel_prefix=config.channel_prefix)
    waiting = surroundings.telemetry.gauge(
        "order_sends_waiting", "Sends that wait for their turn", ["account", "lane"]
    )
    not_sent = surroundings.telemetry.gauge(
        "order_sends_refused",
        "Sends for which there was no turn in time, since the start",
        ["account"],
    )
    placed = surroundings.telemetry.gauge(
        "orders_placed_today",
        "Orders of the day that the broker may have counted, other apps' among them",
        ["account"],
    )
    queued = surroundings.telemetry.gauge(
        "broker_requests_waiting", "Requests that wait for a thread", ["account", "lane"]
    )
    refused = surroundings.telemetry.counter(
        "broker_requests_refused_total",
        "Requests that found their lane full and were not sent",
        ["account", "lane"],
    )
    halted = surroundings.telemetry.gauge(
        "account_halted",
        "1 while an account sends no new orders for this reason",
        ["account", "code"],
    )
    notices = Notices(events, surroundings)
    differ = surroundings.telemetry.gauge(
        "books_differ",
        "What journal, order book, fills and positions of an account disagree about",
        ["account", "what"],
    )
    audited = surroundings.telemetry.gauge(
        "books_compared_age_s",
        "How long ago they were last compared, -1 before the first time",
        ["account"],
    )
    external = surroundings.telemetry.gauge(
        "orders_external", "Orders of the book that were placed elsewhere", ["account"]
    )
    switches = _kill_switches(config, surroundings, notices)
    cancel_all: dict[Account, CancelAll] = {}
    gateways: dict[Account, BrokerGateway] = {}
    desks, egress = dict[Account, AccountDesk](), dict[Account, EgressWatch]()
    contracts = _contract_watch(config, surroundings)
    record, tables = _risk_tables(config, surroundings)
    shelves, prices = {each.api_key: QuoteShelf() for each in config.accounts}, list[LastPricesOf]()
    denied = surroundings.telemetry.counter(
        "risk_denials_total",
        "Orders and changes that a rule of the risk gate denied",
        ["account", "rule"],
    )
    groups = GroupExposure(
        config.groups, lambda account: desks[account].exposure, journal.is_writer
    )
    way_out = surroundings.telemetry.gauge(
        "egress_registered",
        "1 while orders leave from a registered address, 0 from another, -1 while unknown",
        ["account"],
    )
    dials = _BreakerDials(surroundings.telemetry, notices)
    paces = {each.api_key: ReadPace(config.limits, clock) for each in config.accounts}
    for each in config.accounts:
        account = Account(each.account)
        breakers = _breakers(account, config.breakers, clock, dials)
        limits = OrderLimits(
            account,
            clock,
            config.limits,
            cooldown_s=config.orders.cooldown_s,
        )
        broker = gateways[account] = _gateway(
            each,
            config,
            partial(watch.value, account),
            surroundings,
            reach,
            on_full=partial(_count_refused, refused, account),
            reads=PacedReads(paces[each.api_key], breakers.reads),
            sends=limits.departures,
        )
        for lane in BrokerLane:
            queued.labels(account, lane.value).set_function(partial(broker.waiting, lane))
            refused.labels(account, lane.value)
        prices.append(LastPricesOf(broker, shelves[each.api_key], clock))
        sources = RiskSources(
            contracts=contracts.current,
            calendar=_calendar(config.hours),
            prices=prices[-1],
            held_shares=broker.held_shares,
            margin=broker.order_margin,
            group=partial(_limited_group, config, tables, account),
            groups=groups,
        )
        _watch_pacer(account, limits.pacer, waiting, not_sent)
        placed.labels(account).set_function(partial(getattr, limits, "placed_today"))
        executor = Executor(
            journal=journal,
            gateway=gateways[account],
            breakers=breakers,
            limits=limits,
            halts=_halts(account, halted, clock, notices),
            switches=switches,
            config=config.orders,
            surroundings=surroundings,
            reach=reach,
        )
        desks[account] = AccountDesk(
            account,
            journal=journal,
            gateway=gateways[account],
            executor=executor,
            sinks={"redis": events},
            config=config.orders,
            surroundings=surroundings,
            reach=reach,
            tables=tables,
            sources=sources,
        )
        desks[account].risk.on_denial = partial(_tell_denial, denied, record)
        cancel_all[account] = CancelAll(
            account,
            gateway=gateways[account],
            switches=switches,
            pacer=limits.pacer,
            config=config.orders,
            clock=clock,
            unwanted=desks[account].exits.unwanted,
        )
        if config.egress_probe_url:
            egress[account] = _egress_watch(
                each, config.egress_probe_url, surroundings, way_out, notices
            )
            desks[account].halts.on_cause = partial(_look_again, egress[account])
        _watch_audit(desks[account], differ, notices)
        audited.labels(account).set_function(partial(_audit_age_s, desks[account]))
        external.labels(account).set_function(partial(_external_count, desks[account]))
    _count_what_desks_meet(desks, surroundings)
    return OrderOffice(
        FrontDesk(
            desks,
            journal,
            config.orders,
            clock,
            switches=switches,
            contracts=contracts.current,
            groups=config.groups,
        ),
        contracts=contracts,
        journal=journal,
        gateways=gateways,
        tokens=watch,
        events=events,
        notices=notices,
        switches=switches,
        cancel_all=cancel_all,
        surroundings=surroundings,
        risk=tables,
        egress=egress,
        prices=prices,
        record=record,
        postbacks=_postbacks(config, desks, surroundings) if config.hears_postbacks else None,
    )


def _contract_watch(config: OrderHalfConfig, surroundings: Surroundings) -> ContractWatch:
    """Return the day's instruments, shown in the metrics."""
    contracts = ContractWatch(KiteInstruments(_rest_of(config)), surroundings)
    surroundings.telemetry.gauge(
        "order_contracts", "Instruments that orders are checked against, 0 while there are none"
    ).set_function(contracts.count)
    return contracts


def _calendar(hours: HoursConfig) -> Calendar:
    return trading_hours.calendar(
        holidays=hours.holidays, sessions=hours.sessions, is_always_open=hours.is_always_open
    )


def _risk_tables(
    config: OrderHalfConfig, surroundings: Surroundings
) -> tuple[RiskRecord, RiskTables]:
    """Return the risk limits in force, and who writes them and what they deny."""
    record = RiskRecord(surroundings.clock)
    surroundings.telemetry.gauge(
        "risk_denials_unrecorded", "Denials that the journal was not given, since the start"
    ).set_function(partial(getattr, record, "dropped"))
    record.limits(config.risk)
    return record, RiskTables(config.risk, on_change=record.limits)


def _limited_group(config: OrderHalfConfig, tables: RiskTables, account: Account) -> str:
    """Return the first group of an account that has limits of its own, empty for none."""
    mine = (each.name for each in config.groups if account in each.members)
    return next((name for name in mine if name in tables.current.groups), "")


def _tell_denial(denied: Counter, record: RiskRecord, new: NewTask, refusal: RiskDenied) -> None:
    denied.labels(new.account, refusal.code).inc()
    record.denied(new, refusal)


async def _watch_of(config: OrderHalfConfig, tokens: AccessTokens, clock: Clock) -> TokenWatch:
    """Return the accounts' tokens, looked at once; those of the settings count as issued now."""
    given = {
        Account(each.account): AccessToken(
            account=Account(each.account),
            user_id=each.user_id,
            value=each.access_token,
            issued_at_ns=clock.now_ns(),
        )
        for each in config.accounts
        if each.access_token
    }
    names = [Account(each.account) for each in config.accounts]
    for name in names:
        await tokens.get(name)  # a vault that cannot be opened is a fault of the start
    users = {Account(each.account): each.user_id for each in config.accounts}
    watch = TokenWatch(names, tokens, given=given, clock=clock, users=users)
    await watch.look(lambda _: None)
    return watch


def _journal_options(config: OrderHalfConfig) -> JournalOptions:
    orders = PoolOptions(
        # All are kept open: an order that has to wait for a new one waits for a fork and a login.
        size_min=config.order_connections_max,
        size_max=config.order_connections_max,
        waiting_max=256,
        wait_s=config.connection_wait_s,
        statement_ms=config.statement_ms,
    )
    queries = PoolOptions(
        size_max=config.query_connections_max,
        wait_s=config.connection_wait_s,
        statement_ms=max(5_000, config.statement_ms),
        synchronous_commit="off",
    )
    return JournalOptions(
        orders=orders,
        queries=queries,
        requires_durable_storage=config.requires_durable_storage,
    )


def _count_refused(refused: Counter, account: Account, lane: BrokerLane) -> None:
    refused.labels(account, lane.value).inc()


def _watch_pacer(account: Account, pacer: Pacer, waiting: Gauge, refused: Gauge) -> None:
    """Show how many sends of an account wait in each lane, and how many found no turn."""
    refused.labels(account).set_function(partial(getattr, pacer, "refused_count"))
    lanes: tuple[Lane, ...] = ("place", "exit", "cancel")
    for lane in lanes:
        waiting.labels(account, lane).set_function(partial(pacer.waiting, lane))


def _rest_of(config: OrderHalfConfig, *, api_key: str = "") -> KiteConfig:
    return KiteConfig(
        rest_root=config.rest_root,
        ws_root="",
        api_key=api_key,
        access_token="",
        route_prefix=config.route_prefix,
    )


def _gateway(  # noqa: PLR0913 - the parts of one gateway
    account: AccountConfig,
    config: OrderHalfConfig,
    access_token: Callable[[], str],
    surroundings: Surroundings,
    reach: Reach,
    *,
    on_full: Callable[[BrokerLane], None] = lambda _: None,
    reads: ReadGate | None = None,
    sends: SendGate | None = None,
) -> KiteBroker:
    kite = _rest_of(config, api_key=account.api_key)
    egress = _egress(account)
    return KiteBroker(
        kite,
        user_id=account.user_id,
        clock=surroundings.clock,
        access_token=access_token,
        options=BrokerOptions(egress=egress, algo_id=account.algo_id),
        on_full=on_full,
        reads=reads,
        sends=sends,
        reach=reach,
    )


def _postbacks(
    config: OrderHalfConfig, desks: Mapping[Account, AccountDesk], surroundings: Surroundings
) -> Postbacks:
    """Return who hears the broker's postbacks, counted in the metrics."""
    secrets = {each.user_id: (Account(each.account), each.api_secret) for each in config.accounts}
    postbacks = Postbacks(secrets, {name: desk.want_book for name, desk in desks.items()})
    counted = surroundings.telemetry.gauge(
        "postbacks", "Postbacks of the broker since the start, by what became of them", ["outcome"]
    )
    counted.labels("taken").set_function(lambda: sum(postbacks.taken.values()))
    counted.labels("repeated").set_function(lambda: postbacks.repeated)
    counted.labels("refused").set_function(lambda: postbacks.refused)
    return postbacks


def _egress(account: AccountConfig) -> Egress:
    return Egress(source_address=account.source_address or None, proxy=account.proxy or None)


def _egress_watch(
    account: AccountConfig, url: str, surroundings: Surroundings, gauge: Gauge, notices: Notices
) -> EgressWatch:
    """Return who looks at an account's way out, shown in the metrics and told to everybody."""
    name = Account(account.account)
    gauge.labels(name).set(-1.0)
    told: list[EgressVerdict] = []

    def looked(look: EgressLook) -> None:
        shown = {EgressVerdict.REGISTERED: 1.0, EgressVerdict.WRONG: 0.0}
        gauge.labels(name).set(shown.get(look.verdict, -1.0))
        if told[-1:] != [look.verdict]:
            told[:] = [look.verdict]
            notices.tell("egress", account=name, state=look.verdict.value)

    probe = EgressProbe(url, _egress(account), surroundings.clock)
    return EgressWatch(
        name, probe, surroundings, registered=account.registered_addresses, on_look=looked
    )


def _look_again(watch: EgressWatch, code: HaltCode) -> None:
    """Look at the way out when the broker has refused for it."""
    if code is HaltCode.WRONG_IP:
        watch.want()


async def look_at_egress(config: OrderHalfConfig, account: AccountConfig, clock: Clock) -> str:
    """Return from where an account's orders leave, for people.

    Raises:
        ConfigurationError: From an address that is not registered.
        AddressUnknown: The probe does not tell.
    """
    probe = EgressProbe(config.egress_probe_url, _egress(account), clock)
    name, registered = Account(account.account), account.registered_addresses
    look = compared(name, await probe.address(), registered, at_ns=clock.now_ns())
    if look.verdict is EgressVerdict.WRONG:
        raise ConfigurationError(look.told)
    return look.told


def _halts(account: Account, gauge: Gauge, clock: Clock, notices: Notices) -> Halts:
    """Return what halts an account, shown in the metrics and told to everybody."""
    for code in HaltCode:
        gauge.labels(account, code.value).set(0.0)

    def changed(halt: Halt, begins: bool) -> None:  # noqa: FBT001 - as `Halts` calls it
        gauge.labels(account, halt.code.value).set(1.0 if begins else 0.0)
        notices.tell(
            "account",
            account=account,
            state="halted" if begins else "resumed",
            code=halt.code.value,
            until_us=None if halt.until_ns is None else halt.until_ns // NS_PER_US,
        )

    return Halts(account, clock=clock, on_change=changed)


def _count_what_desks_meet(
    desks: Mapping[Account, AccountDesk], surroundings: Surroundings
) -> None:
    """Show what each account's desk counts since the start."""
    dropped = surroundings.telemetry.gauge(
        "order_updates_dropped",
        "Order updates of the feed that found no room, since the start; the book tells the same",
        ["account"],
    )
    escalated = surroundings.telemetry.gauge(
        "jobs_escalated", "Jobs that a person was left with, since the start", ["account"]
    )
    for account, desk in desks.items():
        dropped.labels(account).set_function(partial(getattr, desk.book_watch, "updates_dropped"))
        escalated.labels(account).set_function(partial(getattr, desk.jobs, "escalated"))


def _watch_audit(desk: AccountDesk, gauge: Gauge, notices: Notices) -> None:
    """Show what an account's books differ in, and tell everybody of what kind it is."""
    for what in Differs:
        gauge.labels(desk.account, what.value).set(0.0)

    def changed(each: Difference, begins: bool) -> None:  # noqa: FBT001 - as `Audit` calls it
        left = sum(one.what is each.what for one in desk.audit.differences)
        gauge.labels(desk.account, each.what.value).set(left)
        notices.tell(
            "books",
            account=desk.account,
            state="differ" if begins else "agree",
            what=each.what.value,
            left=left,
        )

    def uncompared(begins: bool) -> None:  # noqa: FBT001 - as the desk calls it
        state = "uncompared" if begins else "compared"
        notices.tell("account", account=desk.account, state=state)

    desk.audit.on_change = changed
    desk.readiness.on_uncompared = uncompared


def _audit_age_s(desk: AccountDesk) -> float:
    age_ns = desk.audit.age_ns
    return -1.0 if age_ns is None else age_ns / NS_PER_S


def _external_count(desk: AccountDesk) -> float:
    return float(len(desk.audit.external()))


def _kill_switches(
    config: OrderHalfConfig, surroundings: Surroundings, notices: Notices
) -> KillSwitches:
    """Return what people have stopped, shown in the metrics and told to everybody."""
    standing = surroundings.telemetry.gauge(
        "kill_switch", "1 while a kill switch stands", ["scope", "level"]
    )

    def changed(switch: KillSwitch, stands: bool) -> None:  # noqa: FBT001 - as it is called
        standing.labels(str(switch.scope), switch.level.value).set(1.0 if stands else 0.0)
        notices.tell(
            "kill_switch",
            scope=str(switch.scope),
            level=switch.level.value,
            state="thrown" if stands else "released",
            why=switch.why,
            by_whom=switch.by_whom,
        )

    return KillSwitches(
        KillFile(config.kill_switch_file),
        groups={group.name: frozenset(group.members) for group in config.groups},
        on_change=changed,
    )


class _BreakerDials:
    """Where breakers show what they do: the metrics, the log and the notices."""

    def __init__(self, telemetry: Telemetry, notices: Notices) -> None:
        names = ["account", "breaker"]
        self._open = telemetry.gauge("breaker_open", BREAKER_OPEN, names)
        self._changes = telemetry.counter(
            "breaker_changes_total", "Transitions of breakers", [*names, "to"]
        )
        self._refusals = telemetry.gauge(
            "breaker_refusals",
            "Requests that were not made because of an open breaker, since the start",
            names,
        )
        self._notices = notices

    def watch(self, account: Account, breakers: Breakers) -> None:
        """Show an account's breakers from the start."""
        for name in BreakerName:
            self._open.labels(account, name.value).set(0.0)
            self._refusals.labels(account, name.value).set_function(
                partial(breakers.refused_count, name)
            )

    def changed(self, account: Account, name: BreakerName, change: BreakerChange) -> None:
        """Show one transition."""
        _show(self._open.labels(account, name.value), account, name, change)
        self._changes.labels(account, name.value, change.after.value).inc()
        self._notices.tell(
            "breaker",
            account=account,
            breaker=name.value,
            before=change.before.value,
            after=change.after.value,
            failures=change.failures,
        )


def _breakers(
    account: Account, config: BreakerConfig, clock: Clock, dials: _BreakerDials
) -> Breakers:
    breakers = Breakers(
        account,
        clock=clock,
        rules={name: _breaker_rules(config, name) for name in BreakerName},
        on_change=partial(dials.changed, account),
    )
    dials.watch(account, breakers)
    return breakers


def _breaker_rules(config: BreakerConfig, name: BreakerName) -> BreakerRules:
    """Return when one of the breakers opens, and for how long."""
    open_s = {
        BreakerName.ORDERS: config.open_s,
        BreakerName.READS: min(config.open_s, config.read_open_s_max),
        BreakerName.FEED: min(config.open_s, config.feed_open_s_max),
    }
    return BreakerRules(
        failures_max=config.failures_max, window_s=config.window_s, open_s=open_s[name]
    )


def _show(shown: Gauge, account: str, name: BreakerName, change: BreakerChange) -> None:
    told = {BreakerState.CLOSED: 0.0, BreakerState.HALF_OPEN: 0.5, BreakerState.OPEN: 1.0}
    shown.set(told[change.after])
    log.warning(
        "breaker_changed",
        account=account,
        breaker=name,
        before=change.before,
        after=change.after,
        is_resumed=change.is_resumed,
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
        rules=_breaker_rules(config.breakers, BreakerName.FEED),
        clock=surroundings.clock,
        on_change=partial(_show, shown, "", BreakerName.FEED),
    )


async def log_in_at_kite(
    config: OrderHalfConfig, account: str, pasted: str, *, tokens: AccessTokens, clock: Clock
) -> AccessToken:
    """Exchange what a login sent back for an access token and keep it.

    Raises:
        LoginFailed: Another user logged in, or the text holds no request token.
        LoginRequired: Kite refused the request token.
        BrokerUnavailable: No answer.
    """
    return await login.log_in(
        kite_app(config, account),
        login.read_redirect(pasted),
        exchange=KiteLogin(config.rest_root, route_prefix=config.route_prefix),
        tokens=tokens,
        clock=clock,
    )


def kite_app(config: OrderHalfConfig, account: str) -> login.KiteApp:
    """Return the app an account trades through.

    Raises:
        ConfigurationError: There is no such account.
    """
    found = _configured(config, account)
    return login.KiteApp(
        account=Account(account),
        user_id=found.user_id,
        api_key=found.api_key,
        api_secret=found.api_secret,
    )


def _configured(config: OrderHalfConfig, account: str) -> AccountConfig:
    for each in config.accounts:
        if each.account == account:
            return each
    raise ConfigurationError(
        f"account={account!r}: must be one of {[each.account for each in config.accounts]}"
    )


def is_redis_url(url: str) -> bool:
    """Return whether the Redis client can read an address, its options included."""
    return is_readable_url(url)


def token_store(folder: Path, passphrase: bytes, clock: Clock) -> AccessTokens:
    """Return where access tokens rest: encrypted files with a passphrase, memory without."""
    if not passphrase:
        return MemoryTokens(clock)
    return VaultTokens(TokenFiles(folder, passphrase), clock)


def passphrase_credential(environment: Mapping[str, str]) -> bytes:
    """Return the passphrase that the service manager keeps for us, empty if it keeps none."""
    try:
        return read_credential(PASSPHRASE_CREDENTIAL, environment)
    except ConfigurationError:
        return b""


async def migrate_journal(database_url: str) -> list[str]:
    """Bring the journal's database up to date; return the names of what was applied."""
    return await postgres_migrate.migrate(database_url)


async def verify_journal(database_url: str, account: str | None = None) -> Audit:
    """Replay the journal, or one account of it, and compare it with its tables; nothing waits.

    Raises:
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration, or has no such account.
    """
    return await postgres_audit.verify(database_url, account)


async def look_at_newest_events(config: OrderHalfConfig) -> str:
    """Return that each account's newest events make what its tables hold, for people.

    Raises:
        InvariantViolatedError: They do not; the message names the first fault.
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration.
    """
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        names = [Account(each.account) for each in config.accounts]
        used = [name for name in names if await journal.last_seq(name)]
    for name in used:
        audit = await postgres_audit.verify(config.database_url, name, newest=NEWEST_EVENTS)
        if not audit.is_sound:
            fault = audit.faults[0]
            raise InvariantViolatedError(
                f"account {fault.account}: {fault.code}: {fault.where} {fault.field}"
                f" ({audit.fault_count} faults in the newest events)"
            )
    return f"the newest {NEWEST_EVENTS:,} events of each account make what its tables hold"


async def watch_journal(
    config: OrderHalfConfig,
    surroundings: Surroundings,
    *,
    on_fault: Callable[[JournalFault], None],
    every_s: float = JOURNAL_LOOK_S,
) -> None:
    """Replay each account's newest events again and again until cancelled.

    What its tables say otherwise is an alarm in the log and in the metrics. Fills that are not
    there are positions that nobody counts, so the account is to send nothing new.

    Args:
        config: Accounts and database.
        surroundings: Where the metric is.
        on_fault: Told of an account's first fault at each look that finds any.
        every_s: From one look to the next.
    """
    faults = surroundings.telemetry.gauge(
        "journal_faults",
        "Faults in the newest events of the account's journal, at the last look",
        ["account"],
    )
    for each in config.accounts:
        faults.labels(each.account).set(0)
    while True:
        await asyncio.sleep(every_s)
        for each in config.accounts:
            try:
                async with asyncio.timeout(JOURNAL_LOOK_S):
                    audit = await postgres_audit.verify(
                        config.database_url, each.account, newest=EVENTS_PER_LOOK
                    )
            except UnknownAccount:
                continue  # it has no event yet
            except (TickerServiceError, TimeoutError) as error:
                log.warning("journal_not_looked_at", account=each.account, error=str(error))
                continue
            faults.labels(each.account).set(audit.fault_count)
            for fault in audit.faults[:1]:
                log.critical(
                    "journal_disagrees",
                    account=fault.account,
                    code=fault.code,
                    where=fault.where,
                    field=fault.field,
                    faults=audit.fault_count,
                    advice="run `ticker-service journal verify`",
                )
                on_fault(fault)


async def rebuild_journal(database_url: str, account: str | None = None) -> Rebuild:
    """Make the tables of the journal anew from its events; nothing happens if those are damaged.

    Raises:
        AccountTaken: A daemon writes one of the accounts.
        TaskMoved: The journal grew meanwhile; nothing was done.
        JournalUnavailable: Not confirmed; all of it was done or nothing.
        ConfigurationError: The database lacks a migration, or has no such account.
    """
    return await postgres_rebuild.rebuild(database_url, account)


async def standing_halts(config: OrderHalfConfig, clock: Clock) -> list[Halt]:
    """Return what halts the configured accounts, as the journal has it.

    Raises:
        JournalUnavailable: It does not answer.
        ConfigurationError: It lacks a migration.
    """
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        found = [await journal.halts(Account(each.account)) for each in config.accounts]
    now_ns = clock.now_ns()
    return [halt for halts in found for halt in halts if halt.stands(now_ns)]


async def resume_account(
    config: OrderHalfConfig, account: str, *, by_whom: str, clock: Clock
) -> list[Halt]:
    """Lift what halts an account and return what did; a running daemon notices by itself.

    Raises:
        JournalUnavailable: The database does not answer.
        ConfigurationError: There is no such account, or the database lacks a migration.
    """
    _configured(config, account)
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        return await journal.lift_halts(Account(account), by_whom=by_whom, now_ns=clock.now_ns())


def kill_file(path: Path) -> KillFile:
    """Return where this machine's kill switches are; nothing else is needed to throw one."""
    return KillFile(path)


async def journalled_kill_switches(config: OrderHalfConfig) -> list[KillSwitch]:
    """Return the kill switches that the journal has.

    Raises:
        JournalUnavailable: It does not answer.
        ConfigurationError: It lacks a migration.
    """
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        return await journal.kill_switches()


async def release_kill_switches(
    store: KillFile, scope: KillScope, config: OrderHalfConfig, *, by_whom: str, clock: Clock
) -> list[KillSwitch]:
    """Release every switch of a scope, in the journal and on this machine, and return them.

    Raises:
        JournalUnavailable: The database does not answer, and nothing is released.
        ConfigurationError: The file cannot be written, or the database lacks a migration.
    """
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        switches = KillSwitches(store)
        return await switches.release(scope, journal, by_whom=by_whom, now_ns=clock.now_ns())


async def risk_history(
    config: OrderHalfConfig, account: str, *, limit: int
) -> tuple[list[KeptLimits], list[RiskDenial]]:
    """Return the newest changes of the risk limits and an account's newest denials.

    Raises:
        JournalUnavailable: The database does not answer.
        ConfigurationError: There is no such account, or the database lacks a migration.
    """
    _configured(config, account)
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        denials = await journal.risk_denials(Account(account), limit=limit)
        return await journal.risk_limits(limit=limit), denials


async def lift_losses(
    store: KillFile, account: str, config: OrderHalfConfig, *, by_whom: str, clock: Clock
) -> list[KillSwitch]:
    """Release what losses have stopped an account by, and return it; a running daemon notices.

    Raises:
        JournalUnavailable: The database does not answer, and nothing is released.
        ConfigurationError: There is no such account, a person's switch of it stands as well, the
            file cannot be written, or the database lacks a migration.
    """
    _configured(config, account)
    async with PostgresJournal(config.database_url, _journal_options(config)) as journal:
        return await loss_watch.lift_losses(
            KillSwitches(store), journal, Account(account), by_whom=by_whom, now_ns=clock.now_ns()
        )


async def look_at_halts(config: OrderHalfConfig, clock: Clock) -> str:
    """Return that no account is halted, for people.

    Raises:
        BrokerUnavailable: One is; the message says which, why, and what to do.
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration.
    """
    halts = await standing_halts(config, clock)
    if halts:
        told = (
            f"account {one.account} by {one.code} ({one.reason}): {one.advice}" for one in halts
        )
        raise BrokerUnavailable("; ".join(told))
    return "no account is halted"


async def look_at_redis(config: EngineConfig) -> str:
    """Return what Redis says of itself, for people.

    Raises:
        PublishError: It does not answer.
    """
    publisher = RedisPublisher(config.redis_url, channel_prefix=config.publish.channel_prefix)
    try:
        kind = await publisher.check()
    finally:
        await publisher.close()
    return f"a {kind}, and it answers"


async def look_at_instruments(config: EngineConfig, clock: Clock) -> str:
    """Return what the day's dump holds of the wanted instruments, for people.

    Raises:
        BrokerUnavailable: It could not be fetched.
        CatalogError: It is malformed or lacks a wanted name.
    """
    dump = await KiteInstruments(config.kite).fetch()
    chosen = universe.select(
        dump,
        underlyings=config.subscription.underlyings,
        instruments=config.subscription.instruments,
        expiries_max=config.subscription.expiries_max,
        today=ist_date(clock.now_ns()),
    )
    subscribe.check_fits(chosen, config.subscription)
    return f"{len(dump)} in the dump, {len(chosen)} may be subscribed, books {chosen.books}"


async def look_at_clock(config: EngineConfig, clock: Clock) -> str:
    """Return how far this machine's clock is from the broker's, for people.

    Raises:
        BrokerUnavailable: The broker does not say.
        ConfigurationError: The clocks are too far apart.
    """
    ahead_s = await KiteInstruments(config.kite).clock_ahead_s(clock)
    if abs(ahead_s) > CLOCK_AHEAD_S_MAX:
        raise ConfigurationError(f"{ahead_s:+.1f} s against the broker's Date header")
    return f"within {CLOCK_AHEAD_S_MAX:.0f} s of the broker's"


async def look_at_journal(config: OrderHalfConfig) -> str:
    """Return how the journal's database stands, for people.

    Raises:
        JournalUnavailable: It does not answer.
        ConfigurationError: It lacks a migration, or may lose what it confirms.
    """
    pending = await postgres_migrate.pending(config.database_url)
    if pending:
        raise MigrationsPending(f"migrations are pending: {', '.join(pending)}")
    journal = PostgresJournal(
        config.database_url,
        _journal_options(config),
    )
    async with journal:
        return "answers, up to date, durable"


async def look_at_account(
    config: OrderHalfConfig, account: AccountConfig, tokens: AccessTokens, clock: Clock
) -> str:
    """Return whether the broker takes an account's token, for people.

    Raises:
        LoginRequired: There is none for today, it is another user's, or the broker refuses it.
        ConfigurationError: The stored one cannot be read.
        BrokerUnavailable: No answer.
    """
    token = await tokens.get(Account(account.account))
    if token is not None and token.user_id != account.user_id:
        raise LoginRequired(
            f"the stored token is of user_id={token.user_id}, the account of {account.user_id}"
        )
    value = token.value if token else account.access_token
    if not value:
        raise LoginRequired("no access token for today")
    surroundings = Surroundings(clock=clock, chance=Random(0), telemetry=Telemetry())  # noqa: S311
    gateway = _gateway(account, config, lambda: value, surroundings, never)
    try:
        rows = await gateway.orders()
    finally:
        await gateway.close()
    return f"the broker takes its token; {len(rows)} orders today"
