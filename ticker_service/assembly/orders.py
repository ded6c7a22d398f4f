"""Put the order half together on the real journal and brokers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ticker_service.accounts.egress_watch import EgressWatch
from ticker_service.accounts.limits import OrderLimits
from ticker_service.accounts.reads import PacedReads, ReadPace
from ticker_service.accounts.token_watch import TokenWatch
from ticker_service.accounts.tokens import AccessToken
from ticker_service.adapters.egress_probe import EgressProbe
from ticker_service.adapters.kite_broker import BrokerLane, BrokerOptions, KiteBroker
from ticker_service.adapters.kite_instruments import KiteInstruments
from ticker_service.adapters.kite_session import Egress
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions, PoolOptions
from ticker_service.adapters.redis_events import RedisOrderEvents
from ticker_service.assembly.dials import (
    BreakerDials,
    audit_age_s,
    breakers_of,
    count_what_desks_meet,
    external_count,
    halts_of,
    kill_switches_of,
    watch_audit,
    watch_pacer,
)
from ticker_service.assembly.market import calendar_of
from ticker_service.config import KiteConfig
from ticker_service.domain.egress import EgressVerdict
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import Account
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
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.orders.risk_record import RiskRecord
from ticker_service.orders.risk_tables import RiskTables

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import Counter, Gauge

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.config import (
        AccountConfig,
        OrderHalfConfig,
    )
    from ticker_service.domain.egress import EgressLook
    from ticker_service.domain.order import NewTask
    from ticker_service.errors import RiskDenied
    from ticker_service.ports import (
        BrokerGateway,
        ReadGate,
        SendGate,
    )
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach
    from ticker_service.runtime.surroundings import Surroundings


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
        journal_options(config),
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
    switches = kill_switches_of(config, surroundings, notices)
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
    dials = BreakerDials(surroundings.telemetry, notices)
    paces = {each.api_key: ReadPace(config.limits, clock) for each in config.accounts}
    for each in config.accounts:
        account = Account(each.account)
        breakers = breakers_of(account, config.breakers, clock, dials)
        limits = OrderLimits(
            account,
            clock,
            config.limits,
            cooldown_s=config.orders.cooldown_s,
        )
        broker = gateways[account] = gateway_of(
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
            calendar=calendar_of(config.hours),
            prices=prices[-1],
            held_shares=broker.held_shares,
            margin=broker.order_margin,
            group=partial(_limited_group, config, tables, account),
            groups=groups,
        )
        watch_pacer(account, limits.pacer, waiting, not_sent)
        placed.labels(account).set_function(partial(getattr, limits, "placed_today"))
        executor = Executor(
            journal=journal,
            gateway=gateways[account],
            breakers=breakers,
            limits=limits,
            halts=halts_of(account, halted, clock, notices),
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
        watch_audit(desks[account], differ, notices)
        audited.labels(account).set_function(partial(audit_age_s, desks[account]))
        external.labels(account).set_function(partial(external_count, desks[account]))
    count_what_desks_meet(desks, surroundings)
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


def journal_options(config: OrderHalfConfig) -> JournalOptions:
    """Return how many connections the journal keeps, and how long it waits for each."""
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


def _rest_of(config: OrderHalfConfig, *, api_key: str = "") -> KiteConfig:
    return KiteConfig(
        rest_root=config.rest_root,
        ws_root="",
        api_key=api_key,
        access_token="",
        route_prefix=config.route_prefix,
    )


def gateway_of(  # noqa: PLR0913 - the parts of one gateway
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
    """Return the broker of one account; it belongs to who asked, who closes it."""
    kite = _rest_of(config, api_key=account.api_key)
    egress = egress_of(account)
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


def egress_of(account: AccountConfig) -> Egress:
    """Return from where an account's orders leave."""
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

    probe = EgressProbe(url, egress_of(account), surroundings.clock)
    return EgressWatch(
        name, probe, surroundings, registered=account.registered_addresses, on_look=looked
    )


def _look_again(watch: EgressWatch, code: HaltCode) -> None:
    """Look at the way out when the broker has refused for it."""
    if code is HaltCode.WRONG_IP:
        watch.want()
