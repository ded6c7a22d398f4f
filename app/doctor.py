"""``ticker-service doctor``: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx

from app import settings
from app.console import latency
from ticker_service import assembly
from ticker_service.errors import TickerServiceError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

CHECK_S_MAX: Final = 15.0
ANSWER_S_MAX: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    look: Callable[[], Awaitable[str]]
    advice: str


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
            "check the network and kite_rest_root; names must be as in Kite's dump",
        ),
        _Check(
            "clock",
            lambda: assembly.look_at_clock(engine, clock),
            "synchronise this machine's clock (chrony, systemd-timesyncd)",
        ),
    ]
    if half is not None:
        store = loaded.token_store(clock)
        checks.append(
            _Check(
                "database",
                lambda: assembly.look_at_journal(half),
                "start PostgreSQL, set DATABASE_URL, run `ticker-service migrate`",
            )
        )
        checks += [
            _Check(
                f"account {each.account}",
                lambda each=each: assembly.look_at_account(half, each, store, clock),  # type: ignore[misc]
                f"run `ticker-service login {each.account}`",
            )
            for each in half.accounts
        ]
        checks.append(
            _Check(
                "halts",
                lambda: assembly.look_at_halts(half, clock),
                "do what it says; new orders of the account wait for that",
            )
        )
    else:
        print("-     orders: no account is configured; ticks only")  # noqa: T201 - the answer
    outcomes = [await _run(check) for check in checks]
    for line in await _running(loaded):
        print(line)  # noqa: T201 - the answer
    return 0 if all(outcomes) else 1


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
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            found = await check.look()
    except TimeoutError:
        found, is_well = f"no answer within {CHECK_S_MAX:.0f} s", False
    except TickerServiceError as error:
        found, is_well = str(error), False
    else:
        is_well = True
    print(f"{'ok   ' if is_well else 'FAULT'} {check.name}: {found}")  # noqa: T201 - the answer
    if not is_well:
        print(f"      -> {check.advice}")  # noqa: T201 - likewise
    return is_well
