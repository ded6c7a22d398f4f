"""What ``ticker-service doctor`` looks at; each look says in a line what it saw."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from ticker_service.adapters import postgres_audit, postgres_migrate
from ticker_service.adapters.egress_probe import EgressProbe
from ticker_service.adapters.kite_instruments import KiteInstruments
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.assembly.orders import egress_of, gateway_of, journal_options
from ticker_service.assembly.verbs import standing_halts
from ticker_service.domain import universe
from ticker_service.domain.egress import EgressVerdict, compared
from ticker_service.domain.order import Account
from ticker_service.domain.session import ist_date
from ticker_service.errors import (
    BrokerUnavailable,
    ConfigurationError,
    InvariantViolatedError,
    LoginRequired,
    MigrationsPending,
)
from ticker_service.market import subscribe
from ticker_service.runtime.crash_points import never
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.config import (
        AccountConfig,
        EngineConfig,
        OrderHalfConfig,
    )
    from ticker_service.runtime.clock import Clock

NEWEST_EVENTS: Final = 1_000
"""So many events of an account a look that must not take long replays."""
CLOCK_AHEAD_S_MAX: Final = 2.0
"""Kite's Date header has whole seconds; beyond this the day roll and deadlines go wrong."""


async def look_at_egress(config: OrderHalfConfig, account: AccountConfig, clock: Clock) -> str:
    """Return from where an account's orders leave, for people.

    Raises:
        ConfigurationError: From an address that is not registered.
        AddressUnknown: The probe does not tell.
    """
    probe = EgressProbe(config.egress_probe_url, egress_of(account), clock)
    name, registered = Account(account.account), account.registered_addresses
    look = compared(name, await probe.address(), registered, at_ns=clock.now_ns())
    if look.verdict is EgressVerdict.WRONG:
        raise ConfigurationError(look.told)
    return look.told


async def look_at_newest_events(config: OrderHalfConfig) -> str:
    """Return that each account's newest events make what its tables hold, for people.

    Raises:
        InvariantViolatedError: They do not; the message names the first fault.
        JournalUnavailable: The database does not answer.
        ConfigurationError: It lacks a migration.
    """
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
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
        journal_options(config),
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
    gateway = gateway_of(account, config, lambda: value, surroundings, never)
    try:
        rows = await gateway.orders()
    finally:
        await gateway.close()
    return f"the broker takes its token; {len(rows)} orders today"
