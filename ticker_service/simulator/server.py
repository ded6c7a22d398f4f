"""The simulator as one thing to start and stop: market, feed, REST, in one task group."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, Self

from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError
from ticker_service.runtime.clock import SystemClock
from ticker_service.simulator.exchange import Exchange
from ticker_service.simulator.feed import Feed
from ticker_service.simulator.historical import HistoricalRoutes
from ticker_service.simulator.ledger import Ledger
from ticker_service.simulator.login import LOGIN_PATH, LoginRoutes
from ticker_service.simulator.market import Market
from ticker_service.simulator.market_data import MarketDataRoutes
from ticker_service.simulator.options import SimulatorOptions
from ticker_service.simulator.order_answers import OrderAnswers
from ticker_service.simulator.order_desk import OrderDesk
from ticker_service.simulator.order_faults import OrderFaults
from ticker_service.simulator.order_rates import OrderRates
from ticker_service.simulator.order_rules import OrderRules
from ticker_service.simulator.orders import OrderRoutes
from ticker_service.simulator.panel import PanelRoutes
from ticker_service.simulator.portfolio import PortfolioRoutes
from ticker_service.simulator.postbacks import OrderPostbacks
from ticker_service.simulator.request_rates import RequestRates
from ticker_service.simulator.rest import RestServer, application
from ticker_service.simulator.sessions import Sessions
from ticker_service.simulator.truth import TruthHistory
from ticker_service.simulator.updates import OrderUpdates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.routing import Route

    from ticker_service.runtime.clock import Clock

BACKLOG: Final = 512
PAUSE_S_MIN: Final = 0.001


class Simulator:
    """A Kite-compatible exchange on loopback.

    ``async with Simulator(options) as sim:`` serves both roots until the block ends.

    Args:
        options: What to simulate.
        clock: Wall time for tokens, expiries and packets; a manual one makes a run repeatable.

    Attributes:
        market: Instruments and quotes.
        feed: The sockets.
        exchange: Every account's orders.
        ledger: What reached the order routes and what came of it.
        faults: What is armed against orders.
        postbacks: Where order updates are posted, beside the sockets.
    """

    def __init__(
        self, options: SimulatorOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        self.options = options or SimulatorOptions()
        self._clock = clock or SystemClock()
        self._stack = contextlib.AsyncExitStack()
        now_ns = self._clock.now_ns()
        self.market = Market(self.options, now_ns=now_ns)
        self._history = TruthHistory(
            self.market.catalogue,
            steps_max=self.options.truth_history_s * self.options.steps_per_s,
        )
        self._history.record(now_ns, self.market.underlyings)
        self._sessions = Sessions(self.options, self._clock)
        self.feed = Feed(self.market, self._sessions, self._clock)
        self.faults = OrderFaults(self._clock)
        self.ledger = Ledger(self._clock)
        self._updates = OrderUpdates(self.feed, self.faults, self._clock)
        self.postbacks = OrderPostbacks(self.options)
        self.exchange = Exchange(self.market, self._clock, self.ledger, self.options, self._publish)
        self._rest_root = ""
        self._ws_root = ""

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._serving())
        return self

    async def __aexit__(self, *_: object) -> None:
        # The block's own error is not handed to the task group, which would wrap it in a group.
        await self._stack.aclose()

    def banner(self) -> dict[str, object]:
        """Return what a client needs to connect, as one JSON object."""
        return {
            "rest_root": self._rest_root,
            "ws_root": self._ws_root,
            "login_url": self._rest_root + LOGIN_PATH,
            "api_key": self.options.api_key,
            "api_secret": self.options.api_secret,
            "users": [
                {"user_id": user.user_id, "user_name": user.user_name, "email": user.email}
                for user in self.options.users
            ],
        }

    def step(self) -> None:
        """Move the market by one step now and hand the changes to every socket."""
        at_ns = self._clock.now_ns()
        changes = self.market.step(at_ns)
        self._history.record(at_ns, self.market.underlyings)
        self.exchange.note(changes)
        self.feed.publish(changes)

    def _publish(self, user_id: str, data: dict[str, object]) -> None:
        self._updates.publish(user_id, data)
        self.postbacks.publish(data)

    async def serve_forever(self) -> None:
        """Wait until cancelled."""
        await asyncio.get_running_loop().create_future()

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        host, options = self.options.host, self.options
        with _listen(host, options.rest_port) as rest, _listen(host, options.ws_port) as ws:
            self._rest_root = f"http://{_authority(rest)}"
            self._ws_root = f"ws://{_authority(ws)}"

            def cut(request: Request) -> None:
                server.cut(request)

            server = RestServer(application(self._routes(cut)))
            async with self.feed.listen(ws), asyncio.TaskGroup() as tasks:
                tasks.create_task(server.serve([rest]))
                moving = [
                    tasks.create_task(self._move()),
                    tasks.create_task(self._advance(self.exchange)),
                    tasks.create_task(self._advance(self._updates)),
                    tasks.create_task(self.postbacks.run()),
                ]
                try:
                    yield
                finally:
                    for task in moving:
                        task.cancel()
                    self.faults.lift_all()
                    server.should_exit = True
                    self.feed.abort()

    def _routes(self, cut: Callable[[Request], None]) -> list[Route]:
        rates = RequestRates(self._clock, enforced=self.options.enforce_rate_limits)
        login = LoginRoutes(self.options, self._sessions, rates, rest_root=self._rest_root)
        order_rates = OrderRates(self._clock, self.options)
        self.exchange.on_leg = order_rates.count_leg
        desk = OrderDesk(
            sessions=self._sessions,
            rates=rates,
            order_rates=order_rates,
            ledger=self.ledger,
            faults=self.faults,
            answers=OrderAnswers(cut),
        )
        rules = OrderRules(self.market, self.options)
        orders = OrderRoutes(
            self.market,
            self.exchange,
            rules,
            desk,
            self._clock,
            is_slice_list=self.options.is_slice_list,
        )
        panel = PanelRoutes(
            self.feed, self._sessions, self._history, self._clock, self._updates, self.ledger
        )
        return [
            *login.routes(),
            *HistoricalRoutes(self.market, self._sessions, rates).routes(),
            *MarketDataRoutes(self.market, self._sessions, rates).routes(),
            *orders.routes(),
            *PortfolioRoutes(self.market, self.exchange, desk).routes(),
            *panel.routes(),
        ]

    async def _move(self) -> None:
        if self.options.rate_per_s == 0:
            return
        period_ns = NS_PER_S // self.options.steps_per_s
        due_ns = self._clock.monotonic_ns()
        while True:
            # A late step is not made up for: prices then move a little less, and nothing bursts.
            due_ns = max(due_ns + period_ns, self._clock.monotonic_ns())
            await asyncio.sleep((due_ns - self._clock.monotonic_ns()) / NS_PER_S)
            self.step()

    async def _advance(self, part: Exchange | OrderUpdates) -> None:
        """Let happen in time what nobody asks about: states of orders, updates that are late."""
        while True:
            part.woken.clear()
            due_ns = part.next_due_ns()
            if due_ns is None:
                await part.woken.wait()
                continue
            # A clock that stands still is asked again after the shortest pause.
            pause_s = max((due_ns - self._clock.monotonic_ns()) / NS_PER_S, PAUSE_S_MIN)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await part.woken.wait()
            part.advance()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)  # noqa: FBT003 - the standard library's own signature
    except (OSError, ValueError) as error:  # a name that is none at all is a ValueError
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen on {host!r} port {port}: {reason}") from error
    except BaseException:
        listening.close()
        raise
    return listening


def _authority(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
