"""``ticker-service demo``: the main job on a simulated exchange, and what comes out of it.

Starts a Redis-protocol server (unless ``REDIS_URL`` names one), the simulator and the daemon, each
under a keeper so that nothing survives this process; logs in as a person would; subscribes like any
consumer; and at the end compares what was published with what the simulator really priced with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import orjson
from prometheus_client.parser import text_string_to_metric_families
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from app.console.chain import ChainView
from app.console.tail import apply
from app.embedded import Child, keep, redis_or_embedded
from app.settings import PREFIX
from ticker_service.client import Message, TickReader
from ticker_service.errors import BrokerUnavailable, TickerServiceError
from ticker_service.simulator.truth import Truth

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from numpy.typing import NDArray

    from ticker_service.runtime.clock import Clock

BOOKS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")
REFRESH_S: Final = 0.25
PLAIN_REFRESH_S: Final = 5.0
START_S_MAX: Final = 20.0
HTTP_S_MAX: Final = 5.0
SETTLE_S: Final = 0.2
"""How long messages under way are waited for at the end, so that counts of both sides meet."""
LINE_BYTES_MAX: Final = 1 << 16
LOG_LINES_KEPT: Final = 4
LATENCIES_MAX: Final = 500_000
IV_ERROR_MAX: Final = 0.01
COMPARE_EVERY_S: Final = 30.0
VEGA_STEPS: Final = 0.2
"""A row is compared when its vega is worth a price step per so many volatility points."""


class DemoFailed(TickerServiceError):  # noqa: N818 - says what happened
    """A part of the demo did not start or ended too early."""


@dataclass(slots=True)
class _Published:
    """What the subscriber saw, in numbers; bounded whatever the length of the run."""

    batches: int = 0
    ticks: int = 0
    options_priced: int = 0
    gaps: int = 0
    iv_error_max: float = 0.0
    iv_compared: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_MAX))
    to_compare: list[NDArray[np.float64]] = field(default_factory=list)


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
        relay = _Relay(is_open=as_json)
        starting = asyncio.timeout(START_S_MAX)
        try:
            async with starting:
                parts = await _start(stack, relay, seed)
        except TimeoutError as error:
            raise DemoFailed(f"not everything was up within {START_S_MAX:.0f} s") from error
        _say(parts.facts)
        relay.open()
        return await _watch(parts, relay, stop, seconds=seconds, as_json=as_json, clock=clock)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    redis_url: str
    health_url: str
    rest_root: str
    daemon: Child
    simulator: Child
    facts: dict[str, object]


async def _start(stack: contextlib.AsyncExitStack, relay: _Relay, seed: int) -> _Parts:
    redis_url = await stack.enter_async_context(redis_or_embedded(os.environ.get("REDIS_URL")))
    simulator, banner = await _start_part(
        stack, relay, "simulator", ["simulate", "--seed", str(seed)], {}
    )
    token = await _login(banner)
    environment = {
        "KITE_REST_ROOT": banner["rest_root"],
        "KITE_WS_ROOT": banner["ws_root"],
        "KITE_API_KEY": banner["api_key"],
        "KITE_ACCESS_TOKEN": token,
        "REDIS_URL": redis_url,
        "UNDERLYINGS": ",".join(BOOKS),
        "HEALTH_PORT": "0",
    }
    daemon, started = await _start_part(
        stack, relay, "daemon", ["run", "--config", os.devnull], environment
    )
    facts: dict[str, object] = {
        "pid": os.getpid(),
        "redis_url": redis_url,
        "health_url": started["health_url"],
        "database_url": None,
        **{name: banner[name] for name in ("rest_root", "ws_root", "login_url")},
        "daemon_pid": started["pid"],
        "simulator_pid": simulator.pid,
    }
    return _Parts(
        redis_url=redis_url,
        health_url=started["health_url"],
        rest_root=banner["rest_root"],
        daemon=daemon,
        simulator=simulator,
        facts=facts,
    )


async def _start_part(
    stack: contextlib.AsyncExitStack,
    relay: _Relay,
    name: str,
    arguments: list[str],
    settings: Mapping[str, Any],
) -> tuple[Child, dict[str, Any]]:
    """Start one of our own commands; return it and the JSON it begins its output with."""
    # Whatever the user has set for a daemon of their own is not meant for this one.
    env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) and k != "REDIS_URL"}
    env |= {PREFIX + key: str(value) for key, value in settings.items()}
    output, errors = _Lines(), _Lines()
    try:
        child = await stack.enter_async_context(
            keep(
                [sys.executable, "-m", "app.cli", *arguments],
                env=env,
                stdout=output.write_end,
                stderr=errors.write_end,
            )
        )
    finally:
        output.close_write_end()
        errors.close_write_end()
    await stack.enter_async_context(relay.following(errors, name))
    line = await stack.enter_async_context(_first_line(output))
    if not line:
        await child.wait()
        said = " ".join(relay.recent) or f"exit status {child.returncode}"
        raise DemoFailed(f"the {name} did not start: {said}")
    banner: dict[str, Any] = orjson.loads(line)
    return child, banner


async def _login(banner: Mapping[str, Any]) -> str:
    """Log in as a person in a browser would, and exchange the request token (kite.md §3.1)."""
    api_key, user_id = banner["api_key"], banner["users"][0]["user_id"]
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        try:
            redirect = await client.get(
                banner["login_url"], params={"v": "3", "api_key": api_key, "user_id": user_id}
            )
            query = parse_qs(urlsplit(redirect.headers["location"]).query)
            request_token = query["request_token"][0]
            material = f"{api_key}{request_token}{banner['api_secret']}"
            answer = await client.post(
                f"{banner['rest_root']}/session/token",
                data={
                    "api_key": api_key,
                    "request_token": request_token,
                    "checksum": hashlib.sha256(material.encode()).hexdigest(),
                },
            )
            token: str = answer.raise_for_status().json()["data"]["access_token"]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise BrokerUnavailable(f"login at the simulator failed: {error!r}") from error
    return token


async def _watch(
    parts: _Parts,
    relay: _Relay,
    stop: asyncio.Event,
    *,
    seconds: float | None,
    as_json: bool,
    clock: Clock,
) -> int:
    """Subscribe and show until the time is up, then report."""
    seen = _Published()
    views = {book: ChainView(book) for book in BOOKS}
    async with TickReader(parts.redis_url, BOOKS) as reader:
        screen = _Screen(parts, relay, views, seen) if not as_json else None
        with screen or contextlib.nullcontext():
            async with asyncio.TaskGroup() as tasks:
                work = [
                    tasks.create_task(_read(reader, views, seen, clock, is_shown=not as_json)),
                    tasks.create_task(_compare_now_and_then(parts, seen)),
                    tasks.create_task(_notice_an_end(parts, stop)),
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
        await _compare(parts, seen)
        report = await _report(parts, seen, reader)
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
        sys.stdout.buffer.flush()
    else:
        _say_report(report)
    is_good = report["ticks_published"] and report["options_priced"] and seen.iv_compared
    return 0 if is_good and seen.iv_error_max < IV_ERROR_MAX else 1


async def _notice_an_end(parts: _Parts, stop: asyncio.Event) -> None:
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
    seen: _Published,
    clock: Clock,
    *,
    is_shown: bool,
) -> None:
    try:
        async for message in reader:
            now_us = clock.now_ns() // 1_000
            if message.kind == "gap":
                seen.gaps += 1
            if message.kind == "batch":
                _count(message, seen, now_us)
            if is_shown:
                await apply(views, message, reader)
    except RedisError as error:
        raise DemoFailed(f"Redis went away: {error}") from error


def _count(message: Message, seen: _Published, now_us: int) -> None:
    """Take a batch into the numbers; only rows with a packet are timed and compared."""
    columns = message.body["columns"]
    status = np.array(columns["iv_status"], dtype=object)
    is_priced = status == "OK"
    seen.batches += 1
    seen.options_priced += int(np.count_nonzero(is_priced))
    if columns["is_repriced"] and columns["is_repriced"][0]:
        return
    received_us = np.array(columns["received_at_us"], np.float64)
    seen.ticks += len(received_us)
    seen.latencies_ms.extend(((now_us - received_us) / 1_000.0).tolist())
    rows = [
        np.array(columns[name], np.float64)
        for name in ("instrument_token", "received_at_us", "implied_volatility", "vega")
    ]
    seen.to_compare.append(np.stack(rows)[:, is_priced])


async def _compare_now_and_then(parts: _Parts, seen: _Published) -> None:
    """Keep the rows that wait for comparison few; the simulator's memory is bounded too."""
    while True:
        await asyncio.sleep(COMPARE_EVERY_S)
        await _compare(parts, seen)


async def _compare(parts: _Parts, seen: _Published) -> None:
    """Compare volatilities published since the last call with those the exchange priced with."""
    if not seen.to_compare:
        return
    token, received_us, volatility, vega = np.concatenate(seen.to_compare, axis=1)
    seen.to_compare.clear()
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        answer = await client.get(
            f"{parts.rest_root}/sim/truth",
            params={"from_us": int(received_us.min()), "to_us": int(received_us.max())},
        )
    truth = Truth(orjson.loads(answer.raise_for_status().content)["data"])
    expected = truth.volatility(token.astype(np.int64), received_us.astype(np.int64))
    # Every option of the simulator moves in steps of five paise.
    is_telling = (vega * VEGA_STEPS >= 0.05) & np.isfinite(expected)  # noqa: PLR2004
    errors = np.abs(volatility - expected)[is_telling]
    seen.iv_compared += len(errors)
    if len(errors):
        seen.iv_error_max = max(seen.iv_error_max, float(errors.max()))


async def _report(parts: _Parts, seen: _Published, reader: TickReader) -> dict[str, object]:
    metrics = await _metrics(parts.health_url)
    latencies = np.array(seen.latencies_ms) if seen.latencies_ms else np.full(1, np.nan)
    p50, p99 = (float(np.percentile(latencies, share)) for share in (50, 99))
    return {
        "ticks_received": int(metrics.get("feed_packets_total", 0)),
        "ticks_published": int(metrics.get("ticks_published_total", 0)),
        "batches": int(metrics.get("batches_published_total", 0)),
        "iv_error_max": seen.iv_error_max if seen.iv_compared else None,
        "iv_compared": seen.iv_compared,
        "gaps": seen.gaps + reader.missed,
        "options_priced": seen.options_priced,
        "orders": {},
        "latency_ms": {"p50": round(p50, 3), "p99": round(p99, 3)},
        "redis_url": parts.redis_url,
        "database_url": None,
    }


async def _metrics(health_url: str) -> dict[str, float]:
    """Return each of the daemon's counters, summed over its labels."""
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as client:
        answer = await client.get(f"{health_url}/metrics")
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.raise_for_status().text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


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
        f"{report['latency_ms']['p50']:.1f} ms, p99 {report['latency_ms']['p99']:.1f} ms"
    )


def _own_command() -> str:
    """Return what to type for this program from here."""
    program = Path(sys.executable).with_name("ticker-service")
    try:
        return str(program.relative_to(Path.cwd()))
    except ValueError:
        return str(program)


class _Lines:
    """A pipe for a child's output, read line by line."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        self._is_write_end_open = True

    def close_write_end(self) -> None:
        if self._is_write_end_open:
            os.close(self.write_end)
            self._is_write_end_open = False

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[asyncio.StreamReader]:
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._read_end, "rb", 0)
        )
        try:
            yield reader
        finally:
            transport.close()


@contextlib.asynccontextmanager
async def _first_line(lines: _Lines) -> AsyncIterator[bytes]:
    """Give the first line of an output and keep the pipe open for the length of the block."""
    async with lines.reading() as reader:
        yield await reader.readline()


class _Relay:
    """The children's logs: kept for the screen, or passed on once the first line is out."""

    def __init__(self, *, is_open: bool) -> None:
        self.recent: deque[str] = deque(maxlen=LOG_LINES_KEPT)
        self._passes_on = is_open
        self._is_open = False
        self._held: deque[bytes] = deque(maxlen=1_000)

    def open(self) -> None:
        """Pass on from now, what was held first."""
        self._is_open = True
        while self._held:
            self._take(self._held.popleft())

    @contextlib.asynccontextmanager
    async def following(self, lines: _Lines, name: str) -> AsyncIterator[None]:
        """Follow one child's log for the length of the block."""
        async with lines.reading() as reader, asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._follow(reader), name=f"log-{name}")
            try:
                yield
            finally:
                task.cancel()

    async def _follow(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue  # longer than any line of ours: the reader has dropped it
            if not line:
                return
            self.recent.append(line.decode(errors="replace").strip())
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not self._passes_on:
            return
        if self._is_open:
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
        else:
            self._held.append(line)


class _Screen:
    """The live chain on a terminal, or a table now and then where there is none."""

    def __init__(
        self, parts: _Parts, relay: _Relay, views: dict[str, ChainView], seen: _Published
    ) -> None:
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
        books = ", ".join(f"ticker:v1:ticks:{book}" for book in BOOKS)
        for line in (
            f"redis      {parts.redis_url}",
            f"channels   {books}",
            f"subscribe  {command} tail NIFTY --redis-url {parts.redis_url}",
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
        table = nifty.table(width=self._console.width, strikes_shown=min(room, 21))
        return Group(table, Text(counts), *(Text(f"! {line}") for line in self._relay.recent))
