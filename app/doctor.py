"""``ticker-service doctor``: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httpx

from app import settings
from app.console import latency
from ticker_service import assembly
from ticker_service.errors import (
    AddressUnknown,
    BrokerUnavailable,
    CatalogError,
    ConfigurationError,
    MigrationsPending,
    TickerServiceError,
)
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Mapping
    from pathlib import Path

    from ticker_service.config import OrderHalfConfig
    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.runtime.clock import Clock

CHECK_S_MAX: Final = 15.0
ANSWER_S_MAX: Final = 2.0
REACH_KITE: Final = "check the network and kite_rest_root"


@dataclass(frozen=True, slots=True)
class _Check:
    """What to look at, and what to do about it when it has a certain kind of fault, or any."""

    name: str
    look: Callable[[], Awaitable[str]]
    advice: str
    for_kind: Mapping[type[Exception], str] = field(default_factory=dict)

    def what_to_do(self, error: Exception) -> str:
        """Return what to do about a fault."""
        return self.for_kind.get(type(error), self.advice)


async def examine(config: Path | None) -> int:
    """Run every check, print a line each, and return 0 only if all are well.

    Raises:
        ConfigurationError: The settings themselves are wrong; the faults are listed.
    """
    loaded = settings.load(config)
    clock = SystemClock()
    engine = loaded.engine_config()
    half = loaded.order_half_config()
    checks = [
        _Check("redis", lambda: assembly.look_at_redis(engine), "start it, or set REDIS_URL"),
        _Check(
            "instruments",
            lambda: assembly.look_at_instruments(engine, clock),
            REACH_KITE,
            {CatalogError: "name underlyings and instruments as Kite's dump does"},
        ),
        _Check(
            "clock",
            lambda: assembly.look_at_clock(engine, clock),
            REACH_KITE,
            {
                ConfigurationError: "synchronise this machine's clock (chrony, systemd-timesyncd): "
                "tokens, deadlines and times to expiry are wrong with it"
            },
        ),
    ]
    outcomes = [await _run(check) for check in checks]
    if half is None:
        print("-     orders: no account is configured; ticks only")  # noqa: T201 - the answer
    else:
        outcomes += await _order_half(loaded, half, clock)
    for line in await _running(loaded):
        print(line)  # noqa: T201 - the answer
    return 0 if all(outcomes) else 1


async def _order_half(loaded: settings.Settings, half: OrderHalfConfig, clock: Clock) -> list[bool]:
    """Look at what orders need beside the rest."""
    database = _Check(
        "database",
        lambda: assembly.look_at_journal(half),
        "start PostgreSQL, or correct DATABASE_URL",
        {
            MigrationsPending: "run `ticker-service migrate`",
            ConfigurationError: "give it a PostgreSQL that keeps what it confirms",
        },
    )
    store = loaded.token_store(clock)
    first = "" if loaded.passphrase() else "set TICKER_SERVICE_TOKEN_PASSPHRASE, then "
    accounts = [
        _Check(
            f"account {each.account}",
            lambda each=each: assembly.look_at_account(half, each, store, clock),  # type: ignore[misc]
            f"{first}run `ticker-service login {each.account}`",
            {
                BrokerUnavailable: f"{REACH_KITE}; the token may be good",
                TimeoutError: f"{REACH_KITE}; the token may be good",
                ConfigurationError: "do what it says first: neither a login nor the daemon gets "
                f"past {loaded.token_folder}",
            },
        )
        for each in half.accounts
    ]
    ways_out = [
        _Check(
            f"way out {each.account}",
            lambda each=each: assembly.look_at_egress(half, each, clock),  # type: ignore[misc]
            "do what it says; the broker refuses orders, changes and cancels from there",
            {AddressUnknown: "correct egress_probe_url, or the account's source_address or proxy"},
        )
        for each in half.accounts
        if half.egress_probe_url
    ]
    outcomes = [await _run(check) for check in [database, *accounts, *ways_out]]
    looked_at = zip(half.accounts, outcomes[1 : len(accounts) + 1], strict=True)
    sound = {each.account for each, is_sound in looked_at if is_sound}
    outcomes += [_group(group, sound) for group in half.groups]
    if not outcomes[0]:
        print("-     halts: they are in the database")  # noqa: T201 - the answer
        return outcomes
    halts = _Check(
        "halts",
        lambda: assembly.look_at_halts(half, clock),
        "do what it says; new orders of the account wait for that",
    )
    journal = _Check(
        "journal",
        lambda: assembly.look_at_newest_events(half),
        "run `ticker-service journal verify`; it says what to do (docs/journal.md)",
        {TimeoutError: "the database is slow; `ticker-service journal verify` takes its time"},
    )
    return [*outcomes, await _run(halts), await _run(journal)]


def _group(group: AccountGroup, sound: Container[str]) -> bool:
    """Say which accounts of a group could take an order, and whether another would stand in."""
    able = [account for account in group.members if account in sound]
    facts = f"{', '.join(group.members)}; {group.policy}, {group.basis}"
    if len(able) == len(group.members):
        print(f"ok    group {group.name}: {facts}")  # noqa: T201 - the answer
        return True
    print(f"FAULT group {group.name}: {facts}; able: {', '.join(able) or 'none'}")  # noqa: T201
    print("      -> an order fails over to able accounts only; log the others in")  # noqa: T201
    return False


async def _running(loaded: settings.Settings) -> list[str]:
    """Say how the daemon of these settings does, if one runs here: that is no check of theirs."""
    host = f"[{loaded.health_host}]" if ":" in loaded.health_host else loaded.health_host
    root = f"http://{host}:{loaded.health_port}"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ANSWER_S_MAX) as http:
            ready = (await http.get(f"{root}/health/ready")).json()
            refused = (await http.get(f"{root}/debug/refusals")).json()
            exposition = (await http.get(f"{root}/metrics")).text
        state = "ready" if ready["is_ready"] else f"not ready: {ready['reason']}"
        facts = f"feed {ready['feed']}, market {ready['market']}, {ready['subscribed']} subscribed"
        seen = [f"{reason} {of['count']:,}" for reason, of in refused.items() if of["count"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return [f"-     daemon: none answers at {root}"]
    return [
        f"-     daemon: {state}; {facts}",
        f"-     refused or doubted: {', '.join(seen) or 'nothing'}",
        *(f"-     {line}" for line in latency.ledger_lines(exposition)),
    ]


async def _run(check: _Check) -> bool:
    fault: Exception
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            found = await check.look()
    except TimeoutError as error:
        found, fault = f"no answer within {CHECK_S_MAX:.0f} s", error
    except TickerServiceError as error:
        found, fault = str(error).removeprefix("Condition failed: "), error
    else:
        print(f"ok    {check.name}: {found}")  # noqa: T201 - the answer
        return True
    print(f"FAULT {check.name}: {found}")  # noqa: T201 - likewise
    print(f"      -> {check.what_to_do(fault)}")  # noqa: T201 - likewise
    return False
