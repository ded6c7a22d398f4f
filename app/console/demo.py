"""``ticker-service demo``: the main job on a simulated exchange, and what comes out of it.

Starts a Redis-protocol server (unless ``REDIS_URL`` names one), the simulator and the daemon, each
under a keeper so that nothing survives this process; logs in as a person would; subscribes like any
consumer; and at the end compares what was published with what the simulator really priced with.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from app.console.chain import ChainView
from app.console.demo_orders import Trades, trade
from app.console.demo_parts import BOOKS, DemoFailed, Parts, Relay, start
from app.console.demo_score import IV_ERROR_MAX, Score, compare, count, report_of
from app.console.tail import apply
from ticker_service.client import TickReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from app.kept import Child
    from ticker_service.runtime.clock import Clock

REFRESH_S: Final = 0.25
PLAIN_REFRESH_S: Final = 5.0
START_S_MAX: Final = 20.0
SETTLE_S: Final = 0.2
"""How long messages under way are waited for at the end, so that counts of both sides meet."""
COMPARE_EVERY_S: Final = 30.0


async def demo(*, seconds: float | None, as_json: bool, seed: int, clock: Clock) -> int:
    """Run the demo and return its exit status.

    Args:
        seconds: How long to run once everything is up; None until Ctrl-C.
        as_json: Draw nothing; end with one line of JSON on standard output.
        seed: Fixes the simulated market.
        clock: Source of time.

    Raises:
        TickerServiceError: Something did not start or ended too early; the message says what.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        relay = Relay(is_open=as_json)
        starting = asyncio.timeout(START_S_MAX)
        try:
            async with starting:
                parts = await start(stack, relay, seed)
        except TimeoutError as error:
            raise DemoFailed(f"not everything was up within {START_S_MAX:.0f} s") from error
        # For programs; a person on a terminal gets the same above the picture.
        if as_json or not sys.stderr.isatty():
            _say(parts.facts)
        relay.open()
        return await _watch(parts, relay, stop, seconds=seconds, as_json=as_json, clock=clock)


async def _watch(
    parts: Parts,
    relay: Relay,
    stop: asyncio.Event,
    *,
    seconds: float | None,
    as_json: bool,
    clock: Clock,
) -> int:
    """Subscribe and show until the time is up, then report."""
    seen, trades = Score(), Trades()
    views = {book: ChainView(book) for book in BOOKS}
    async with TickReader(
        parts.redis_url, BOOKS, channel_prefix=parts.names.channel_prefix
    ) as reader:
        screen = _Screen(parts, relay, views, seen, trades) if not as_json else None
        with screen or contextlib.nullcontext():
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(_read(reader, views, seen, clock)),
                    tasks.create_task(_compare_now_and_then(parts, seen)),
                    tasks.create_task(_notice_an_end(parts, stop)),
                    tasks.create_task(trade(parts.door, views[BOOKS[0]], trades)),
                ]
                if screen:
                    work.append(tasks.create_task(screen.refresh_forever()))
                try:
                    async with asyncio.timeout(seconds):
                        await stop.wait()
                except TimeoutError:
                    pass
                ended_early = parts.daemon.returncode, parts.simulator.returncode
                await asyncio.sleep(SETTLE_S)
                for task in work:
                    task.cancel()
        if any(status is not None for status in ended_early):
            raise DemoFailed(f"a part ended too early: {' '.join(relay.recent)}")
        try:
            await compare(parts, seen)
            report = await report_of(parts, seen, reader, trades)
            report["missing"] = _missing(report, seen)
        except httpx.HTTPError as error:
            raise DemoFailed(f"the daemon or the simulator does not answer: {error!r}") from error
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        _say_report(report)
    return 1 if report["missing"] else 0


def _missing(report: Mapping[str, Any], seen: Score) -> list[str]:
    """Return what a demo that shows that all is well would have and this one has not."""
    promised = {
        "no tick was published": report["ticks_published"],
        "no option was priced": report["options_priced"],
        "no implied volatility was compared": seen.iv_compared,
        "no order was filled": report["orders"].get("FILLED"),
        f"{seen.unvalued} rows have no true value": not seen.unvalued,
        f"an implied volatility is off by {IV_ERROR_MAX} or more": seen.iv_error_max < IV_ERROR_MAX,
    }
    return [words for words, is_there in promised.items() if not is_there]


async def _notice_an_end(parts: Parts, stop: asyncio.Event) -> None:
    """End the demo when the daemon or the simulator ends."""
    async with asyncio.TaskGroup() as tasks:

        async def until_end(child: Child) -> None:
            await child.wait()
            stop.set()

        tasks.create_task(until_end(parts.daemon))
        tasks.create_task(until_end(parts.simulator))


async def _read(
    reader: TickReader,
    views: dict[str, ChainView],
    seen: Score,
    clock: Clock,
) -> None:
    try:
        async for message in reader:
            now_us = clock.now_ns() // 1_000
            if message.kind == "gap":
                seen.gaps += 1
            if message.kind == "batch":
                count(message, seen, now_us)
            await apply(views, message, reader)
    except RedisError as error:
        raise DemoFailed(f"Redis went away: {error}") from error


async def _compare_now_and_then(parts: Parts, seen: Score) -> None:
    """Keep the rows that wait for comparison few; the simulator's memory is bounded too."""
    while True:
        await asyncio.sleep(COMPARE_EVERY_S)
        await compare(parts, seen)


def _say(facts: Mapping[str, object]) -> None:
    sys.stderr.buffer.write(orjson.dumps(facts) + b"\n")
    sys.stderr.buffer.flush()


def _say_report(report: Mapping[str, Any]) -> None:
    error = report["iv_error_max"]
    print(  # noqa: T201 - the terminal is this module's purpose
        f"{report['ticks_received']} ticks received, {report['ticks_published']} published in "
        f"{report['batches']} batches, {report['options_priced']} option rows priced, "
        f"{report['gaps']} gaps; worst IV error "
        f"{'-' if error is None else f'{100 * error:.3f} points'}; latency p50 "
        f"{report['latency_ms']['p50']:.1f} ms, p99 {report['latency_ms']['p99']:.1f} ms; "
        f"orders {report['orders'] or 'none ended'}"
    )
    for words in report["missing"]:
        print(f"demo: {words}", file=sys.stderr)  # noqa: T201 - likewise


def _own_command() -> str:
    """Return what to type for this program from here."""
    program = Path(sys.executable).with_name("ticker-service")
    try:
        return str(program.relative_to(Path.cwd()))
    except ValueError:
        return str(program)


class _Screen:
    """The live chain on a terminal, or a table now and then where there is none."""

    def __init__(
        self,
        parts: Parts,
        relay: Relay,
        views: dict[str, ChainView],
        seen: Score,
        trades: Trades,
    ) -> None:
        self._trades = trades
        self._parts = parts
        self._relay = relay
        self._views = views
        self._seen = seen
        self._console = Console()
        self._live = (
            Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        )

    def __enter__(self) -> None:
        self._say_where_things_are()
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(self._picture(), refresh=True)
            self._live.stop()

    async def refresh_forever(self) -> None:
        """Draw a few times a second; without a terminal, every few seconds."""
        show: Callable[[], None] = self._update if self._live else self._print
        while True:
            await asyncio.sleep(REFRESH_S if self._live else PLAIN_REFRESH_S)
            show()

    def _update(self) -> None:
        if self._live:
            self._live.update(self._picture(), refresh=True)

    def _print(self) -> None:
        self._console.print(self._picture())

    def _say_where_things_are(self) -> None:
        """Print once, above the picture and unshortened, what a person may want to copy."""
        parts, command = self._parts, _own_command()
        books = ", ".join(f"{parts.names.channel_prefix}ticks:{book}" for book in BOOKS)
        subscribe = f"tail NIFTY --redis-url {parts.redis_url}{parts.names.tail_options()}"
        for line in (
            f"redis      {parts.redis_url}",
            f"channels   {books}",
            f"subscribe  {command} {subscribe}",
            f"orders     {parts.door.url}, account {parts.door.account}, token {parts.door.token}",
            f"health     {parts.health_url}/health/ready and {parts.health_url}/metrics",
            f"exchange   {parts.rest_root} (Kite's REST), {parts.facts['ws_root']} (its WebSocket)",
        ):
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _picture(self) -> Group:
        room = max(self._console.height - 14, 7)
        nifty = next(iter(self._views.values()))
        latencies = self._seen.latencies_ms
        counts = (
            f"{self._seen.ticks:,} ticks in {self._seen.batches:,} batches, "
            f"{self._seen.options_priced:,} option rows priced, {self._seen.gaps} gaps, "
            f"last tick {latencies[-1]:.1f} ms after its frame; Ctrl-C stops"
            if latencies
            else "waiting for ticks"
        )
        orders = [Text(line) for line in self._trades.lines()]
        table = nifty.table(width=self._console.width, strikes_shown=min(room, 21))
        return Group(table, Text(counts), *orders, *(Text(line) for line in self._relay.warnings))
