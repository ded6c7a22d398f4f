"""The service as it runs, each part a process: Redis, simulator, daemon, and who listens.

The daemon, and the peers in its place, have the pinned core for themselves; everything else runs
on the others. Numbers of the daemon are its own, from ``/metrics``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import httpx
import orjson

from app.console import demo_parts
from app.embedded import redis_or_embedded
from scripts.benchmarks import machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

UNDERLYINGS: Final = ("NIFTY", "BANKNIFTY", "SENSEX")
CPU_SECONDS: Final = "process_cpu_seconds_total"
RESIDENT_BYTES: Final = "process_resident_memory_bytes"
OPEN_FDS: Final = "process_open_fds"
TASKS: Final = "asyncio_tasks"
READY_S_MAX: Final = 60.0
ASK_AGAIN_S: Final = 0.1
HTTP_S_MAX: Final = 10.0
END_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A running simulator that somebody has logged in to, and a Redis beside it."""

    redis_url: str
    rest_root: str
    ws_root: str
    api_key: str
    access_token: str
    banner: Mapping[str, Any]

    def settings(self, **more: object) -> dict[str, object]:
        """Return the settings that lead a daemon here, and more."""
        return {
            "KITE_REST_ROOT": self.rest_root,
            "KITE_WS_ROOT": self.ws_root,
            "KITE_API_KEY": self.api_key,
            "KITE_ACCESS_TOKEN": self.access_token,
            "REDIS_URL": self.redis_url,
            "UNDERLYINGS": ",".join(UNDERLYINGS),
            "MARKET_HOURS": "always",
            "HEALTH_PORT": "0",
            "LOG_LEVEL": "warning",
            **more,
        }

    def as_json(self) -> bytes:
        """Return what a peer needs to find the way, as one line."""
        names = ("redis_url", "rest_root", "ws_root", "api_key", "access_token")
        return orjson.dumps({name: getattr(self, name) for name in names}) + b"\n"


class Daemon:
    """A running ``ticker-service run``, seen through its health listener."""

    def __init__(self, started: Mapping[str, Any], http: httpx.AsyncClient) -> None:
        self.pid: int = started["pid"]
        self.orders_ws_url: str = started["orders_ws_url"]
        self._health_url: str = started["health_url"]
        self._http = http

    async def metrics(self) -> dict[str, float]:
        """Return every sample by its name with its labels."""
        answer = await self._http.get(f"{self._health_url}/metrics")
        lines = answer.raise_for_status().text.splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    async def becomes_ready(self, *, subscribed_min: int) -> None:
        """Wait until ticks flow and so much is subscribed.

        Raises:
            TimeoutError: They do not, in ``READY_S_MAX``.
        """
        async with asyncio.timeout(READY_S_MAX):
            while not await self._is_ready(subscribed_min):  # noqa: ASYNC110 - it is a process
                await asyncio.sleep(ASK_AGAIN_S)

    async def health(self) -> dict[str, Any]:
        """Return what the daemon says of itself, ready or not."""
        answer = await self._http.get(f"{self._health_url}/health/ready")
        body: dict[str, Any] = answer.json()
        return body

    async def opens(self, accounts: int) -> None:
        """Wait until so many accounts take orders.

        Raises:
            TimeoutError: They do not, in ``READY_S_MAX``.
        """
        async with asyncio.timeout(READY_S_MAX):
            while await self._open_accounts() < accounts:  # noqa: ASYNC110 - it is a process
                await asyncio.sleep(ASK_AGAIN_S)

    async def _open_accounts(self) -> int:
        return list((await self.health())["accounts"].values()).count("open")

    async def _is_ready(self, subscribed_min: int) -> bool:
        now = await self.health()
        return now["status"] == "ready" and now["subscribed"] >= subscribed_min


async def exchange(
    stack: contextlib.AsyncExitStack,
    relay: demo_parts.Relay,
    *arguments: str,
    cores: Callable[[], contextlib.AbstractContextManager[None]] = machine.on_other_cores,
) -> Exchange:
    """Start Redis and a simulator with these arguments, for as long as ``stack`` is open."""
    with cores():
        redis_url = await stack.enter_async_context(redis_or_embedded(None))
        _, banner = await demo_parts.start_part(
            stack, relay, "simulator", ["simulate", "--no-rate-limits", *arguments], {}
        )
    return Exchange(
        redis_url=redis_url,
        rest_root=banner["rest_root"],
        ws_root=banner["ws_root"],
        api_key=banner["api_key"],
        access_token=await demo_parts.login(banner),
        banner=banner,
    )


@contextlib.asynccontextmanager
async def daemon(relay: demo_parts.Relay, settings: Mapping[str, object]) -> AsyncIterator[Daemon]:
    """Run a daemon for the length of the block, on the pinned core."""
    async with contextlib.AsyncExitStack() as stack:
        _, started = await demo_parts.start_part(
            stack, relay, "daemon", ["run", "--config", os.devnull], dict(settings)
        )
        http = httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX)
        await stack.enter_async_context(http)
        yield Daemon(started, http)


@contextlib.contextmanager
def module(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module of the benchmarks as a process; it ends with the block at the latest."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"scripts.benchmarks.{name}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=END_S_MAX)


async def line_of(process: subprocess.Popen[bytes]) -> Any:  # noqa: ANN401 - JSON
    """Return the next line of a process, as JSON.

    Raises:
        ChildProcessError: It has ended instead.
    """
    output = process.stdout
    line = await asyncio.to_thread(output.readline) if output else b""
    if not line:
        raise ChildProcessError(f"{process.args!r} ended with status {process.wait(END_S_MAX)}")
    return orjson.loads(line)


def say(text: bytes, to: IO[bytes] | None) -> None:
    """Write a line to a process."""
    if to is not None:
        to.write(text)
        to.flush()
