"""The main job: settings in, engine and listeners up, SIGTERM out."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from typing import TYPE_CHECKING, Final

import orjson
import structlog

from app import logging
from app.http import health
from ticker_service.assembly import assemble
from ticker_service.errors import InvariantViolatedError
from ticker_service.runtime.clock import SystemClock
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from app.settings import Settings

log = structlog.get_logger()

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run(settings: Settings, *, pid: int) -> None:
    """Run the daemon until SIGTERM or SIGINT, then drain and return.

    Prints one line of JSON with ``pid``, ``health_url``, ``epoch`` and ``books`` on standard output
    once it runs; everything else goes to the log.

    Raises:
        TickerServiceError: It could not start; the message says what is wrong.
    """
    if not __debug__:
        raise InvariantViolatedError("Invariant: checks are off; do not run with -O")
    logging.configure(settings.log_level, settings.log_format)
    config = settings.engine_config()
    surroundings = Surroundings(
        clock=SystemClock(),
        chance=random.Random(),  # noqa: S311 - jitter of retries, not a secret
        telemetry=Telemetry(),
    )
    listener = health.listen(settings.health_host, settings.health_port)
    try:
        engine = await assemble(config, surroundings)
        server = health.Server(health.application(engine.health, surroundings.telemetry), listener)
        stop = asyncio.Event()
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.run_until_stopped(), name="health")
            _say_started(pid, health.url_of(listener), engine.epoch, engine.universe.books)
            try:
                await engine.run(stop)
            finally:
                server.stop()
    finally:
        listener.close()


def _say_started(pid: int, health_url: str, epoch: int, books: tuple[str, ...]) -> None:
    facts = {"pid": pid, "health_url": health_url, "epoch": epoch, "books": books}
    sys.stdout.buffer.write(orjson.dumps(facts) + b"\n")
    sys.stdout.buffer.flush()
    log.info("daemon_started", **facts)
