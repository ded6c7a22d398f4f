"""A real simulator on loopback: in a thread for blocking clients, or inside the test's own loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

from ticker_service.simulator import Simulator, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ticker_service.runtime.clock import Clock

T = TypeVar("T")

START_S: Final = 20.0
TICKER_PROGRAM: Final = Path(__file__).with_name("kite_ticker_process.py")
STILL: Final = SimulatorOptions(seed=7, rate_per_s=0.0, enforce_rate_limits=False)
"""A market that stands still, so that what two routes say can be compared exactly."""
LIVELY: Final = SimulatorOptions(seed=7, enforce_rate_limits=False)


class RunningSimulator:
    """A simulator in a thread of its own, for clients that block."""

    def __init__(self, options: SimulatorOptions, clock: Clock | None = None) -> None:
        self.options = options
        self._clock = clock
        self._started: concurrent.futures.Future[Simulator] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, name="simulator")

    def __enter__(self) -> Self:
        self._thread.start()
        self.simulator = self._started.result(START_S)
        banner: dict[str, Any] = self.simulator.banner()
        self.rest_root: str = banner["rest_root"]
        self.ws_root: str = banner["ws_root"]
        self.login_url: str = banner["login_url"]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()

    def call(self, action: Callable[[], T]) -> T:
        """Do something inside the simulator's event loop and return its result."""

        async def inside() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(START_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with Simulator(self.options, clock=self._clock) as simulator:
            self._started.set_result(simulator)
            await self._stop.wait()


class KiteTickerProcess:
    """The official ticker in a process of its own, because its reactor starts only once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what its callbacks were called with, until it ends."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)

    def await_event(self, name: str) -> dict[str, Any]:
        """Return the next event of that name."""
        for event in self.events():
            if event["event"] == name:
                return event
        raise AssertionError(f"the ticker ended before {name}")

    def ticks(self, tokens: set[int], *, mode: str) -> dict[int, dict[str, Any]]:
        """Return the first tick of each token in that mode."""
        seen: dict[int, dict[str, Any]] = {}
        for event in self.events():
            for tick in event.get("ticks", []):
                if tick["mode"] == mode:
                    seen.setdefault(tick["instrument_token"], tick)
            if tokens <= seen.keys():
                return seen
        raise AssertionError(f"the ticker ended without {tokens - seen.keys()}")


@pytest.fixture
def still() -> Iterator[RunningSimulator]:
    with RunningSimulator(STILL) as running:
        yield running


@pytest.fixture
def lively() -> Iterator[RunningSimulator]:
    with RunningSimulator(LIVELY) as running:
        yield running


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[RunningSimulator]]:
    return RunningSimulator


@pytest.fixture
def log_in() -> Callable[..., str]:
    return _log_in


@pytest.fixture
def start_ticker() -> Iterator[Callable[..., KiteTickerProcess]]:
    with contextlib.ExitStack() as stack:

        def start(
            running: RunningSimulator, access_token: str, modes: Mapping[str, list[int]]
        ) -> KiteTickerProcess:
            plan = {
                "api_key": running.options.api_key,
                "access_token": access_token,
                "root": running.ws_root,
                "modes": modes,
            }
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(TICKER_PROGRAM), json.dumps(plan)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return KiteTickerProcess(process)

        yield start


@pytest.fixture
def feed_url() -> Callable[[Simulator, str], str]:
    def url(simulator: Simulator, access_token: str) -> str:
        query = urlencode({"api_key": simulator.options.api_key, "access_token": access_token})
        return f"{simulator.banner()['ws_root']}/?{query}"

    return url


def _log_in(simulator: Simulator, user_id: str = "AB1234") -> str:
    """Go through the login as a browser and a server would, and return the access token."""
    banner: dict[str, Any] = simulator.banner()
    with httpx.Client(trust_env=False) as http:
        query = {"v": "3", "api_key": banner["api_key"], "user_id": user_id}
        redirect = http.get(banner["login_url"], params=query).headers["location"]
        (request_token,) = parse_qs(urlsplit(redirect).query)["request_token"]
        text = banner["api_key"] + request_token + banner["api_secret"]
        answer = http.post(
            banner["rest_root"] + "/session/token",
            data={
                "api_key": banner["api_key"],
                "request_token": request_token,
                "checksum": hashlib.sha256(text.encode()).hexdigest(),
            },
        )
    token: str = answer.json()["data"]["access_token"]
    return token
