"""Parts that run beside a test: our programs as processes, servers in a thread of their own.

Everything is awaited by condition and deadline: a line of output, a message, the end of a process.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx
import orjson
import redis

from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator import Simulator, SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[1]
DEADLINE_S: Final = 40.0
LIVELY: Final = SimulatorOptions(seed=7, rate_per_s=2_000.0, enforce_rate_limits=False)
PACE_S: Final = 0.01
"""How often a condition is asked for where nothing can be waited on."""


def eventually(
    condition: Callable[[], T], *, within_s: float = DEADLINE_S, pace_s: float = PACE_S
) -> T:
    """Ask until the answer is true and return it, or return the last answer when time is over."""
    deadline = time.monotonic() + within_s
    while not (answer := condition()) and time.monotonic() < deadline:
        time.sleep(pace_s)
    return answer


class Lines:
    """The lines a process has written, with a way to wait for one that is still to come."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._is_over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return everything written so far."""
        with self._news:
            return "".join(self._lines)

    def lines(self) -> list[str]:
        """Return the lines written so far."""
        return self.text().splitlines()

    def wait_for(self, condition: Callable[[str], object], *, within_s: float = DEADLINE_S) -> str:
        """Return the first line that meets the condition."""
        deadline = time.monotonic() + within_s
        seen = 0
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if condition(line):
                        return line
                seen = len(self._lines)
                left_s = deadline - time.monotonic()
                if self._is_over or not self._news.wait(max(left_s, 0.0)):
                    raise AssertionError(f"no such line; written: {''.join(self._lines)!r}")

    def close(self) -> None:
        self._thread.join(DEADLINE_S)
        self._stream.close()

    def _read(self) -> None:
        for line in self._stream:
            with self._news:
                self._lines.append(line.decode(errors="replace"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()


class Program:
    """A process of ours with its output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid
        self.out = Lines(process.stdout)
        self.err = Lines(process.stderr)

    def wait(self, within_s: float = DEADLINE_S) -> int:
        """Return the exit status; by then all output has been read."""
        status = self.process.wait(within_s)
        self.out._thread.join(DEADLINE_S)
        self.err._thread.join(DEADLINE_S)
        return status

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def is_running(self) -> bool:
        return self.process.poll() is None


def environment(settings: Mapping[str, object] | None = None, **more: str) -> dict[str, str]:
    """Return ours without anything of a daemon, plus the given settings."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TICKER_SERVICE_") and name not in {"REDIS_URL", "DATABASE_URL"}
    }
    own = {f"TICKER_SERVICE_{name.upper()}": str(v) for name, v in (settings or {}).items()}
    return inherited | own | more


@contextlib.contextmanager
def program(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    command: tuple[str, ...] = (sys.executable, "-m", "app.cli"),
) -> Iterator[Program]:
    """Run a command of ours until the block ends, killing what is left of it then."""
    process = subprocess.Popen(
        [*command, *arguments],
        env=dict(environment() if env is None else env),
        cwd=cwd or ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    running = Program(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(DEADLINE_S)
        running.out.close()
        running.err.close()


class Daemon:
    """``ticker-service run`` as a process, past its first line."""

    def __init__(self, running: Program, http: httpx.Client) -> None:
        self.program = running
        self.first_line: dict[str, Any] = orjson.loads(running.out.wait_for(lambda _: True))
        self.health_url: str = self.first_line["health_url"]
        self.epoch: int = self.first_line["epoch"]
        self._http = http

    def get(self, path: str) -> httpx.Response:
        return self._http.get(self.health_url + path)

    def ready(self) -> httpx.Response:
        return self.get("/health/ready")

    def becomes_ready(self, *, subscribed_min: int = 10) -> dict[str, Any]:
        """Wait until ticks flow and the window of strikes is open; return what health says."""

        def answer() -> dict[str, Any] | None:
            answered = self.ready()
            body: dict[str, Any] = answered.json()
            is_open = answered.status_code == 200 and body["subscribed"] >= subscribed_min
            return body if is_open else None

        body = eventually(answer)
        assert body, self.program.err.text()
        return body

    def metrics(self) -> dict[str, float]:
        """Return every sample by its name with its labels, such as ``x_total{reason="y"}``."""
        lines = self.get("/metrics").text.splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    def metric(self, name: str) -> float:
        """Return one sample, 0 while it does not exist."""
        return self.metrics().get(name, 0.0)


@contextlib.contextmanager
def daemon(
    settings: Mapping[str, object], *, config: str | os.PathLike[str] = os.devnull
) -> Iterator[Daemon]:
    """Run the daemon with these settings and a file; a health port is chosen by the system."""
    env = environment({"health_port": 0, **settings})
    with (
        program("run", "--config", str(config), env=env) as running,
        httpx.Client(trust_env=False, timeout=DEADLINE_S) as http,
    ):
        yield Daemon(running, http)


class Subscriber:
    """What a subscriber of one book's channel gets, as it comes: no numbers are put right."""

    def __init__(
        self, client: redis.Redis, channel: str, read: Callable[[bytes], dict[str, Any]]
    ) -> None:
        self._read = read
        self.seen: list[dict[str, Any]] = []
        self._pubsub = client.pubsub()
        self._pubsub.subscribe(channel)
        confirmed = self._pubsub.get_message(timeout=DEADLINE_S)
        assert confirmed is not None

    def until(
        self, condition: Callable[[dict[str, Any]], object], *, within_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """Take messages until one meets the condition, and return it."""
        deadline = time.monotonic() + within_s
        while (left_s := deadline - time.monotonic()) > 0:
            raw = self._pubsub.get_message(timeout=left_s)
            if raw is None or raw["type"] != "message":
                continue
            message = self._read(raw["data"])
            self.seen.append(message)
            if condition(message):
                return message
        tail = [
            {k: v for k, v in m.items() if k not in {"columns", "instruments"}}
            for m in self.seen[-5:]
        ]
        raise AssertionError(f"no such message among {len(self.seen)}, the last are {tail}")

    def close(self) -> None:
        self._pubsub.close()


@contextlib.contextmanager
def subscriber(
    url: str, channel: str, read: Callable[[bytes], dict[str, Any]] = orjson.loads
) -> Iterator[Subscriber]:
    """Subscribe to a channel for the length of the block."""
    with redis.Redis.from_url(url) as client:
        subscribed = Subscriber(client, channel, read)
        try:
            yield subscribed
        finally:
            subscribed.close()


def is_kind(kind: str, **facts: object) -> Callable[[dict[str, Any]], bool]:
    """Return a condition on a message: its kind, and what it says."""
    return lambda m: m["kind"] == kind and all(m[name] == value for name, value in facts.items())


def assert_gap_free(messages: list[dict[str, Any]]) -> None:
    """Check what the wire promises of every channel, repeats of a number aside."""
    at = None
    for message in messages:
        seq = message["seq"]
        if message["kind"] == "heartbeat":
            assert at is None or seq == at, (at, seq)
        else:
            # The same bytes may come twice after a failure, never something new under an old number.
            assert at is None or seq in {at, at + 1}, (at, seq, message["kind"])
        at = seq


class Beside:
    """An asynchronous block that lives in a thread with an event loop of its own."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._make = make
        self._started: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.part: Any = self._started.result(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()

    def call(self, action: Callable[[], T | Awaitable[T]]) -> T:
        """Do something in that loop and return its result."""

        async def inside() -> T:
            result = action()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(inside(), self._loop).result(DEADLINE_S)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._make() as part:
            self._started.set_result(part)
            await self._stop.wait()


class CountingSimulator(Simulator):
    """The simulator, counting the upgrades that were asked for and refusing some on demand."""

    def __init__(self, options: SimulatorOptions) -> None:
        super().__init__(options, clock=SystemClock())
        self.upgrades = 0
        self.refusals: list[int] = []
        """Status codes that the next upgrades are refused with, whoever asks."""
        admit = self.feed._admit

        def counted(connection: Any, request: Any) -> Any:
            self.upgrades += 1
            if self.refusals:
                return connection.respond(self.refusals.pop(0), "refused by the test\n")
            return admit(connection, request)

        self.feed._admit = counted  # type: ignore[method-assign]


class Exchange:
    """A simulator beside the test, with a user logged in."""

    user_id: Final = "AB1234"

    def __init__(self, beside: Beside) -> None:
        self._beside = beside
        self.simulator: CountingSimulator = beside.part
        self.banner: dict[str, Any] = self.simulator.banner()
        self.rest_root: str = self.banner["rest_root"]
        self.ws_root: str = self.banner["ws_root"]
        self.api_key: str = self.banner["api_key"]
        self.access_token = log_in(self.simulator, self.user_id)

    def settings(self, **more: object) -> dict[str, object]:
        """Return the daemon's settings that lead it here."""
        return {
            "kite_rest_root": self.rest_root,
            "kite_ws_root": self.ws_root,
            "kite_api_key": self.api_key,
            "kite_access_token": self.access_token,
            "underlyings": "NIFTY",
            "market_hours": "always",
            "expiries": 1,
            "strikes_each_side": 3,
            **more,
        }

    def fault(self, **fields: object) -> dict[str, Any]:
        answer = httpx.post(f"{self.rest_root}/sim/faults", json=fields, trust_env=False)
        data: dict[str, Any] = answer.raise_for_status().json()["data"]
        return data

    def connections(self) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.rest_root}/sim/faults", trust_env=False)
        open_now: list[dict[str, Any]] = answer.json()["data"]["connections"]
        return open_now

    def call(self, action: Callable[[], T]) -> T:
        return self._beside.call(action)


@contextlib.contextmanager
def exchange(options: SimulatorOptions) -> Iterator[Exchange]:
    """Run a simulator in a thread of its own for the length of the block."""
    with Beside(lambda: CountingSimulator(options)) as beside:
        yield Exchange(beside)


def log_in(simulator: Simulator, user_id: str) -> str:
    """Go through the login as a browser and a server would, and return the access token."""
    banner: dict[str, Any] = simulator.banner()
    with httpx.Client(trust_env=False, timeout=DEADLINE_S) as http:
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


def descendants(pid: int) -> set[int]:
    """Return the process ids of all children of a process and theirs; Linux only."""
    found: set[int] = set()
    to_visit = [pid]
    while to_visit:
        for task in Path(f"/proc/{to_visit.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = {int(child) for child in task.read_text().split()}
                to_visit.extend(children - found)
                found |= children
    return found


class Watched:
    """A process of anybody, whose end can be awaited."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def has_ended(self, *, within_s: float = DEADLINE_S) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def watched(pids: set[int]) -> Iterator[list[Watched]]:
    """Hold on to processes, so that their numbers cannot become another's."""
    processes = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            processes.append(Watched(pid))
    try:
        yield processes
    finally:
        for process in processes:
            process.close()
