"""What the command line asks of the outside: logins, stores, journals, halts, switches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.accounts import login
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.accounts.tokens import AccessToken, MemoryTokens, VaultTokens
from ticker_service.adapters import postgres_audit, postgres_migrate, postgres_rebuild
from ticker_service.adapters.kill_file import KillFile
from ticker_service.adapters.kite_login import KiteLogin
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.redis_servers import is_readable_url
from ticker_service.adapters.token_file import TokenFiles, read_credential
from ticker_service.assembly.orders import journal_options
from ticker_service.domain.order import Account
from ticker_service.errors import (
    ConfigurationError,
    TickerServiceError,
    UnknownAccount,
)
from ticker_service.orders import loss_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ticker_service.accounts.tokens import AccessTokens
    from ticker_service.config import (
        AccountConfig,
        OrderHalfConfig,
    )
    from ticker_service.domain.halt import Halt
    from ticker_service.domain.journal_audit import Audit, JournalFault, Rebuild
    from ticker_service.domain.kill_switch import KillScope, KillSwitch
    from ticker_service.domain.risk import KeptLimits, RiskDenial
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.surroundings import Surroundings

log = structlog.get_logger()

JOURNAL_LOOK_S: Final = 60.0
EVENTS_PER_LOOK: Final = 100
"""A look of the running daemon costs its loop a few milliseconds."""
PASSPHRASE_CREDENTIAL: Final = "ticker-service-tokens"  # noqa: S105 - a name, no secret


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
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
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
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
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
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
        return await journal.kill_switches()


async def release_kill_switches(
    store: KillFile, scope: KillScope, config: OrderHalfConfig, *, by_whom: str, clock: Clock
) -> list[KillSwitch]:
    """Release every switch of a scope, in the journal and on this machine, and return them.

    Raises:
        JournalUnavailable: The database does not answer, and nothing is released.
        ConfigurationError: The file cannot be written, or the database lacks a migration.
    """
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
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
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
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
    async with PostgresJournal(config.database_url, journal_options(config)) as journal:
        return await loss_watch.lift_losses(
            KillSwitches(store), journal, Account(account), by_whom=by_whom, now_ns=clock.now_ns()
        )
