"""The main job: settings in, engine and listeners up, SIGTERM out."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from app import logging
from app.doors import Doors, application
from app.http import health, listener
from app.kill_names import NamesHere
from app.risk_file import RiskFile
from app.security.limits import ConnectionCaps
from app.security.tokens import TokenVerifier
from app.settings import has_settings
from app.ws.orders import FRAME_BYTES_MAX
from ticker_service.assembly import assemble, assemble_orders, watch_journal
from ticker_service.errors import InvariantViolatedError
from ticker_service.orders.access import Caller
from ticker_service.runtime import memory
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.crash_points import dying_at, never
from ticker_service.runtime.slow_stop import StopLimit
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.runtime.watchdog import ending_stalls

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from app.settings import Settings
    from ticker_service.orders.office import OrderOffice
    from ticker_service.runtime.crash_points import Reach

log = structlog.get_logger()

EVERYBODY: Final = Caller(principal="", accounts="all")
"""As whom the health listener, which is on loopback, looks at all accounts."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
STOP_S_MAX: Final = 45.0
"""A stop beside a database that stands still takes 25 at the most (docs/architecture.md)."""


async def run(
    settings: Settings, *, pid: int, own_redis_url: str = "", file: Path | None = None
) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and return.

    Prints one line of JSON with ``pid``, ``health_url``, ``orders_ws_url``, ``epoch`` and ``books``
    on standard output once it runs; everything else goes to the log.

    Args:
        settings: What to run.
        pid: This process.
        own_redis_url: Address of a server started for this run alone. Nobody could know it
            otherwise, so the printed line carries it as ``redis_url``; the log never does.
        file: Where the risk limits are read again, on SIGHUP or when the door is asked to.

    Raises:
        TickerServiceError: It could not start; the message says what is wrong.
    """
    if not __debug__:
        raise InvariantViolatedError("Invariant: checks are off; do not run with -O")
    had_settings = has_settings(file)
    log_lines_dropped = logging.configure(settings.log_level, settings.log_format)
    memory.keep_freed()
    surroundings = Surroundings(
        clock=SystemClock(),
        chance=random.Random(),  # noqa: S311 - jitter of retries, not a secret
        telemetry=Telemetry(),
    )
    surroundings.telemetry.watch_process(lambda: len(asyncio.all_tasks()))
    surroundings.telemetry.gauge(
        "log_lines_dropped", "Lines of the log that standard error did not take, since the start"
    ).set_function(log_lines_dropped)
    limit = StopLimit(STOP_S_MAX, _say_not_stopped)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(limit.over)
        health_listener = _listen(stack, settings.health_host, settings.health_port)
        office, doors_listener = None, None
        half = settings.order_half_config()
        if half is not None:
            doors_listener = _listen(stack, settings.orders_host, settings.orders_port)
            reach = dying_at(settings.kill_at) if settings.kill_at else never
            tokens = settings.token_store(surroundings.clock)
            office = await assemble_orders(half, surroundings, tokens=tokens, reach=reach)
            stack.push_async_callback(office.close)
        engine = await assemble(
            settings.engine_config(),
            surroundings,
            office=office,
            record=settings.record_config(),
        )
        servers = [
            listener.Server(
                health.application(
                    engine.health,
                    surroundings.telemetry,
                    accounts=office.states if office else dict,
                    halts=office.halts if office else tuple,
                    kill_switches=office.switches.standing if office else tuple,
                    egress=office.egress if office else tuple,
                    refusals=engine.refusals,
                    risk=partial(office.front.controls.risk, EVERYBODY) if office else tuple,
                    names=NamesHere(
                        accounts=tuple(settings.accounts),
                        groups=tuple(settings.groups),
                        contracts=office.contracts.current,
                    )
                    if office and office.contracts
                    else health.NOBODY,
                ),
                health_listener,
            )
        ]
        if office is not None and doors_listener is not None:
            risk_file = RiskFile(
                office.risk,
                file,
                accounts=tuple(settings.accounts),
                groups=tuple(settings.groups),
                had_settings=had_settings,
            )
            servers.append(
                _doors_server(settings, office, surroundings, reach, risk_file, doors_listener)
            )
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, risk_file.heed_signal)
        stop = asyncio.Event()
        _heed_signals(stop, limit)
        stack.enter_context(ending_stalls(settings.stall_s, _say_stalled))
        memory.settle()
        async with asyncio.TaskGroup() as tasks:
            for server in servers:
                tasks.create_task(server.run_until_stopped(), name="listener")
            if office is not None:
                tasks.create_task(office.run(stop), name="orders")
            looking = (
                tasks.create_task(
                    watch_journal(half, surroundings, on_fault=office.journal_disagrees),
                    name="journal",
                )
                if half is not None and office is not None
                else None
            )
            _say_started(
                {"redis_url": own_redis_url} if own_redis_url else {},
                pid=pid,
                health_url=listener.url_of(health_listener),
                orders_ws_url=_ws_url(doors_listener),
                epoch=engine.epoch,
                books=engine.universe.books,
            )
            try:
                await engine.run(stop)
            finally:
                limit.begin()  # it may have ended by a fault
                if looking is not None:
                    looking.cancel()
                for server in servers:
                    server.stop()


def _heed_signals(stop: asyncio.Event, limit: StopLimit) -> None:
    """Stop in good order when asked to."""
    loop = asyncio.get_running_loop()

    def begin_stop() -> None:
        stop.set()
        limit.begin()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, begin_stop)


def _listen(stack: contextlib.AsyncExitStack, host: str, port: int) -> socket.socket:
    bound = listener.listen(host, port)
    stack.callback(bound.close)
    return bound


def _doors_server(
    settings: Settings,
    office: OrderOffice,
    surroundings: Surroundings,
    reach: Reach,
    risk_file: RiskFile,
    bound: socket.socket,
) -> listener.Server:
    doors = Doors(
        front=office.front,
        verifier=TokenVerifier(settings.token_secret.get_secret_value().encode()),
        clock=surroundings.clock,
        reach=reach,
        risk_file=risk_file,
        postbacks=office.postbacks,
        postback_word=settings.postback_word.get_secret_value(),
    )
    refused = surroundings.telemetry.gauge(
        "doors_refused",
        "Turned away at the order doors for asking too much, since the start",
        ["what"],
    )
    refused.labels("requests").set_function(lambda: doors.rate.refused_count)
    refused.labels("connections").set_function(lambda: doors.connections.refused_count)
    return listener.Server(
        application(doors),
        bound,
        frame_bytes_max=FRAME_BYTES_MAX,
        sockets_max=ConnectionCaps().total_max,
    )


def _ws_url(bound: socket.socket | None) -> str | None:
    if bound is None:
        return None
    return listener.url_of(bound).replace("http://", "ws://") + "/v1/orders/ws"


def _say_stalled(calls: list[str]) -> None:
    """Say where the event loop stands, as the last line of the log."""
    log.critical("event_loop_stalled", calls=calls)


def _say_not_stopped(tasks: list[str]) -> None:
    """Say what did not come to an end, as the last line of the log."""
    log.critical("stop_timed_out", limit_s=STOP_S_MAX, tasks=tasks)


def _say_started(secret_facts: Mapping[str, object], **facts: object) -> None:
    sys.stdout.buffer.write(orjson.dumps({**facts, **secret_facts}) + b"\n")
    sys.stdout.buffer.flush()
    log.info("daemon_started", **facts)
