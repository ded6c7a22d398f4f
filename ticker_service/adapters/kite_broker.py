"""One account's orders at Kite. Port ``BrokerGateway``.

The official client builds every request, so routes and fields are Kite's own; what happened to it
is read from the session's record (``adapters.kite_session``), never from the client's exceptions.
The client blocks, so it runs on threads: orders, cancels and reads have their own, so that neither
a slow order book nor a queue of orders delays a cancel. Source: DESIGN D4; kite.md §2 and §5.
"""

from __future__ import annotations

import asyncio
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import structlog
from kiteconnect import KiteConnect  # type: ignore[import-untyped]  # it ships no types

from ticker_service.adapters import kite_rows
from ticker_service.adapters.kite_session import (
    Answered,
    Egress,
    Exchange,
    KiteSession,
    performing,
)
from ticker_service.constants import NS_PER_S
from ticker_service.domain.limit import LimitName
from ticker_service.domain.order import TaskKind, to_fields
from ticker_service.domain.risk_input import OrderMargin
from ticker_service.errors import (
    BrokerThrottled,
    BrokerUnavailable,
    ConfigurationError,
    InvariantViolatedError,
    LoginRequired,
)
from ticker_service.ports import LANE_FULL, NO_ACCESS_TOKEN, Reply, Withheld
from ticker_service.runtime.crash_points import never

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from concurrent.futures import Future

    from ticker_service.config import KiteConfig
    from ticker_service.domain.order import BrokerOrder, OrderChange, OrderRequest, Variety
    from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade
    from ticker_service.domain.risk_input import ReferencePrice
    from ticker_service.ports import ReadGate, SendGate
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach

T = TypeVar("T")

log = structlog.get_logger()

READ_S_MAX: Final = 10.0
CLOSE_S_MAX: Final = 15.0
GRACE_S: Final = 0.25
"""How long after the deadline a worker may still hand in what it knows."""
ORDER_BYTES_MAX: Final = 1 << 20
READ_BYTES_MAX: Final = 32 << 20
MESSAGE_CHARACTERS_MAX: Final = 200
HTTP_OK: Final = 200
HTTP_FORBIDDEN: Final = 403
HTTP_TOO_MANY: Final = 429
UNPREFIXED_ROUTES: Final = frozenset({"market.instruments.all", "market.instruments"})

# It becomes a part of the path: nothing that could make another path of it.
_ORDER_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HEADER_WORD: Final = re.compile(r"[!-~]+")


class BrokerLane(StrEnum):
    """Which threads a request runs on."""

    ORDERS = "orders"
    CANCELS = "cancels"
    READS = "reads"


def _unheard(_: BrokerLane) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerOptions:
    """How requests leave and how many at once.

    On each of the three lanes ``waiting_max`` requests may wait for a thread, and each keeps its
    deadline; one more is refused as not sent. ``algo_id`` goes with every new order.
    """

    egress: Egress = field(default_factory=Egress)
    algo_id: str = ""
    order_threads: int = 4
    cancel_threads: int = 4
    read_threads: int = 2
    waiting_max: int = 32


class KiteBroker:
    """Sends each request once, at most, and tells what was observed."""

    def __init__(  # noqa: PLR0913 - what one account's gateway stands on
        self,
        config: KiteConfig,
        *,
        user_id: str,
        clock: Clock,
        access_token: Callable[[], str] | None = None,
        options: BrokerOptions | None = None,
        on_full: Callable[[BrokerLane], None] = _unheard,
        reads: ReadGate | None = None,
        sends: SendGate | None = None,
        reach: Reach = never,
    ) -> None:
        """Open nothing yet.

        Args:
            config: Where Kite is, and the api_key.
            user_id: Whose orders; rows of anybody else make a book invalid.
            clock: Monotonic deadlines are told by it.
            access_token: Asked before every request; the one in ``config`` if not given.
            options: Threads and egress.
            on_full: Told of each request that found its lane full and was not sent.
            sends: Has the last word on when something is sent; at once if not given.
            reads: Decides when something is read; at once if not given.
            reach: Called at the crash points C4 and C5 of orders, changes and cancels.

        Raises:
            ConfigurationError: The root or the route prefix is not usable.
        """
        options = options or BrokerOptions()
        self._user_id = user_id
        self._algo_id = {"algo_id": options.algo_id} if options.algo_id else {}
        self._clock = clock
        self._access_token = access_token or (lambda: config.access_token)
        self._reach = reach
        self._gate = reads or _AtOnce()
        self._sends = sends or _AtOnce()
        threads = (options.order_threads, options.cancel_threads, options.read_threads)
        self._session = KiteSession(options.egress, connections_max=sum(threads))
        self._client = _client(config, self._session)
        lane = partial(_Lane, waiting_max=options.waiting_max, on_full=on_full)
        self._orders = lane(BrokerLane.ORDERS, threads=options.order_threads)
        self._cancels = lane(BrokerLane.CANCELS, threads=options.cancel_threads)
        self._reads = lane(BrokerLane.READS, threads=options.read_threads)

    async def place(
        self,
        request: OrderRequest,
        *,
        tag: str,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one new order once.

        If the awaiting task is cancelled, ``CancelledError`` is raised and its order's outcome is
        unknown, as if the reply had been MAY_HAVE_LEFT: what had not left by then never will, what
        had is at the broker.
        """
        form = to_fields(request) | self._algo_id
        call = partial(self._client.place_order, **form, tag=tag)
        return await self._send(TaskKind.PLACE, call, deadline_ns, leave_by_ns, may_leave)

    async def modify(  # noqa: PLR0913 - what one change is made of
        self,
        order_id: str,
        variety: Variety,
        change: OrderChange,
        *,
        parent_order_id: str | None = None,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one change once; as :meth:`place`."""
        if not (_ORDER_ID.fullmatch(order_id) and _ORDER_ID.fullmatch(parent_order_id or order_id)):
            return _unsent("the order id is none")
        call = partial(
            self._client.modify_order,
            variety=variety.value,
            order_id=order_id,
            parent_order_id=parent_order_id,
            **to_fields(change),
        )
        return await self._send(TaskKind.MODIFY, call, deadline_ns, leave_by_ns, may_leave)

    async def cancel(
        self,
        order_id: str,
        variety: Variety,
        *,
        parent_order_id: str | None = None,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one cancel once, on a lane of its own; as :meth:`place`."""
        if not (_ORDER_ID.fullmatch(order_id) and _ORDER_ID.fullmatch(parent_order_id or order_id)):
            return _unsent("the order id is none")
        call = partial(
            self._client.cancel_order,
            variety=variety.value,
            order_id=order_id,
            parent_order_id=parent_order_id,
        )
        return await self._send(TaskKind.CANCEL, call, deadline_ns, leave_by_ns, may_leave)

    async def orders(self) -> Sequence[BrokerOrder]:
        """Return the day's order book.

        Raises:
            BrokerUnavailable: It could not be read, or what came is not a whole valid book.
            LoginRequired: The access token was refused.
        """
        return await self._read("orders", self._client.orders, self._book)

    async def order_history(self, order_id: str) -> Sequence[BrokerOrder]:
        """Return every state of one order, oldest first; raises as :meth:`orders`."""
        if not _ORDER_ID.fullmatch(order_id):
            raise BrokerUnavailable("Condition failed: the order id is none")
        call = partial(self._client.order_history, order_id=order_id)
        return await self._read("order_history", call, self._book)

    async def profile(self) -> Mapping[str, object]:
        """Return who the access token belongs to, the cheapest probe of it; raises as orders."""
        return await self._read("profile", self._client.profile, _object)

    async def trades(self) -> Sequence[BrokerTrade]:
        """Return the day's fills, each once; raises as :meth:`orders`."""
        return await self._read("trades", self._client.trades, _readable(kite_rows.trades))

    async def positions(self) -> Sequence[BrokerPosition]:
        """Return the net positions; raises as :meth:`orders`."""
        return await self._read("positions", self._client.positions, _readable(kite_rows.positions))

    async def holdings(self) -> Sequence[Mapping[str, object]]:
        """Return the holdings as Kite shows them; raises as :meth:`orders`."""
        return await self._read("holdings", self._client.holdings, _objects)

    async def quotes(
        self, symbols: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        """Return full quotes of at most 500 instruments; raises as :meth:`orders`."""
        names = [":".join(symbol) for symbol in symbols]
        at_ns = self._clock.now_ns()
        return await self._read(
            "quotes",
            partial(self._client.quote, *names),
            _readable(partial(kite_rows.quotes, at_ns=at_ns)),
            limit=LimitName.QUOTES_PER_SECOND,
        )

    async def held_shares(self) -> Mapping[tuple[str, str], int]:
        """Return how many shares may be sold out of the holdings; raises as :meth:`orders`."""
        return await self._read("holdings", self._client.holdings, _readable(kite_rows.held_shares))

    async def margins(self) -> Mapping[str, object]:
        """Return the funds by segment as Kite shows them; raises as :meth:`orders`."""
        return await self._read("margins", self._client.margins, _object)

    async def order_margin(self, request: OrderRequest) -> OrderMargin:
        """Return what an order would need, and what is free; it places nothing. Raises as orders.

        Two readings, both of the limit ``reads_per_second``: Kite counts them with all others.
        """
        at_ns = self._clock.now_ns()
        total_inr = await self._read(
            "order_margins",
            partial(self._client.order_margins, [_margin_asked(request)]),
            _readable(
                partial(
                    kite_rows.order_margin,
                    exchange=request.exchange,
                    tradingsymbol=request.tradingsymbol,
                )
            ),
        )
        free = partial(kite_rows.free_margin, exchange=request.exchange)
        available_inr = await self._read("margins", self._client.margins, _readable(free))
        return OrderMargin(at_ns=at_ns, total_inr=total_inr, available_inr=available_inr)

    def order_update(self, data: object) -> BrokerOrder | None:
        """Return an order update of the WebSocket, None if it is not one of this user's."""
        try:
            return kite_rows.order(data, user_id=self._user_id)
        except kite_rows.RowOfAnother:
            return None  # every account is asked about every update
        except kite_rows.RowMalformed as error:
            log.warning("order_update_dropped", user_id=self._user_id, reason=str(error))
            return None

    def waiting(self, lane: BrokerLane) -> int:
        """Return how many requests of a lane wait for a thread."""
        lanes = (self._orders, self._cancels, self._reads)
        return next(each.waiting for each in lanes if each.name is lane)

    async def close(self) -> None:
        """Take nothing more, let what is under way end by its own deadline, give all back."""
        lanes = (self._orders, self._cancels, self._reads)
        for lane in lanes:
            lane.refuse()
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                for lane in lanes:
                    await asyncio.to_thread(lane.drain)
        except TimeoutError:
            log.warning("broker_threads_stuck", user_id=self._user_id, limit_s=CLOSE_S_MAX)
        self._session.close()

    async def _send(
        self,
        kind: TaskKind,
        call: Callable[[], object],
        deadline_ns: int,
        leave_by_ns: int | None,
        may_leave: Callable[[], bool] | None,
    ) -> Reply:
        lane = self._cancels if kind is TaskKind.CANCEL else self._orders
        exchange = Exchange(
            deadline_ns=deadline_ns,
            leave_by_ns=leave_by_ns,
            clock=self._clock,
            bytes_max=ORDER_BYTES_MAX,
            reach=self._reach,
            turn=lambda by_ns: self._sends.turn(kind, leave_by_ns=by_ns, may_leave=may_leave),
        )
        return await self._await(lane, exchange, call, lambda reply: reply)

    async def _read(
        self,
        name: str,
        call: Callable[[], object],
        parsed: Callable[[object], T],
        *,
        limit: LimitName = LimitName.READS_PER_SECOND,
    ) -> T:
        """Ask, and check and parse on the thread: a long book must not hold up the event loop."""

        def ask() -> Awaitable[T]:
            deadline_ns = self._clock.monotonic_ns() + int(READ_S_MAX * NS_PER_S)
            exchange = Exchange(
                deadline_ns=deadline_ns, clock=self._clock, bytes_max=READ_BYTES_MAX
            )
            return self._await(
                self._reads, exchange, call, lambda reply: parsed(_data(name, reply))
            )

        return await self._gate.read(limit, ask)

    async def _await(
        self,
        lane: _Lane,
        exchange: Exchange,
        call: Callable[[], object],
        conclude: Callable[[Reply], T],
    ) -> T:
        work = lane.submit(lambda: conclude(self._perform(exchange, call)))
        if work is None:
            return conclude(_unsent(LANE_FULL))
        left_s = exchange.left_ns() / NS_PER_S + GRACE_S
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            return conclude(exchange.abandon("no answer by the deadline"))
        except asyncio.CancelledError:
            exchange.abandon("nobody waits for it")
            raise

    def _perform(self, exchange: Exchange, call: Callable[[], object]) -> Reply:
        """Make the call on this thread; whatever the client raises, the exchange knows better."""
        try:
            access_token = self._access_token()
            if not access_token:
                # The client would send it without saying who we are, and a 400 is a refusal.
                return _unsent(NO_ACCESS_TOKEN)
            if not _HEADER_WORD.fullmatch(access_token):
                return _unsent("the access token is no word that a header can hold")
            self._client.set_access_token(access_token)
            with performing(exchange):
                call()
        except Answered:
            return exchange.reply("")
        except InvariantViolatedError:
            raise
        except Exception as error:  # noqa: BLE001 - an answer that no class of exception tells
            return exchange.reply(_chain(error))
        return exchange.reply("the client sent nothing")

    def _book(self, data: object) -> list[BrokerOrder]:
        return _readable(partial(kite_rows.book, user_id=self._user_id))(data)


class _AtOnce:
    """The ``ReadGate`` of who asks once, and the ``SendGate`` of who has no rate to keep."""

    def turn(
        self,
        kind: TaskKind,  # noqa: ARG002 - as the port has it
        *,
        leave_by_ns: int,  # noqa: ARG002 - likewise
        may_leave: Callable[[], bool] | None = None,
    ) -> bool:
        return may_leave is None or may_leave()

    async def read(self, _: LimitName, work: Callable[[], Awaitable[T]]) -> T:
        return await work()


class _Lane:
    """Threads of one kind of request, with a bounded number of requests that wait for them."""

    def __init__(
        self,
        name: BrokerLane,
        *,
        threads: int,
        waiting_max: int,
        on_full: Callable[[BrokerLane], None],
    ) -> None:
        self.name = name
        self.waiting = 0
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"kite-{name}")
        self._room = threading.Semaphore(threads + waiting_max)
        self._on_full = on_full
        self._is_open = True

    def submit(self, work: Callable[[], T]) -> Future[T] | None:
        """Begin or queue work; None when there is no room, and nothing of it will be done."""
        if not self._is_open:
            return None
        if not self._room.acquire(blocking=False):
            self._on_full(self.name)
            return None

        def begun() -> T:
            self._count(-1)
            return work()

        self._count(1)
        future = self._pool.submit(begun)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[Any]) -> None:
        if future.cancelled():  # which it can be only before it began
            self._count(-1)
        self._room.release()

    def _count(self, more: int) -> None:
        with self._counting:
            self.waiting += more

    def refuse(self) -> None:
        """Take no more work."""
        self._is_open = False

    def drain(self) -> None:
        """Wait until all work is done, and end the threads."""
        self._pool.shutdown(wait=True)


def _client(config: KiteConfig, session: KiteSession) -> Any:  # noqa: ANN401 - it ships no types
    """Return the official client, sending through our session to prefixed routes."""
    root = urlsplit(config.rest_root)
    if root.path not in {"", "/"}:
        # ``urljoin`` in the client would drop it without a word.
        raise ConfigurationError(
            f"Condition failed: rest_root={config.rest_root} must not have a path; "
            "that is what route_prefix is for"
        )
    prefix = config.route_prefix
    if prefix and (not prefix.startswith("/") or prefix.startswith("//") or prefix.endswith("/")):
        raise ConfigurationError(
            f"Condition failed: route_prefix={prefix!r} must begin with one slash and end with none"
        )
    with warnings.catch_warnings():  # the constructor silences all of urllib3, in every thread
        client = KiteConnect(api_key=config.api_key, root=config.rest_root, debug=False)
    client.reqsession.close()
    client.reqsession = session
    client._routes = {  # noqa: SLF001 - the client has no other way to a base path
        name: route if name in UNPREFIXED_ROUTES else prefix + route
        for name, route in client._routes.items()  # noqa: SLF001
    }
    return client


def _margin_asked(request: OrderRequest) -> dict[str, object]:
    """Return an order as ``/margins/orders`` takes it: JSON, with 0 for a price there is not."""
    return {
        "exchange": request.exchange,
        "tradingsymbol": request.tradingsymbol,
        "transaction_type": request.transaction_type.value,
        "variety": request.variety.value,
        "product": request.product.value,
        "order_type": request.order_type.value,
        "quantity": request.quantity,
        # The shortest text of a double is the price again: no price has so many digits.
        "price": float(request.price or 0),
        "trigger_price": float(request.trigger_price or 0),
    }


def _unsent(failure: str) -> Reply:
    return Reply(withheld=Withheld.NOTHING_LEFT, failure=failure)


def _chain(error: BaseException) -> str:
    """Name an error and its causes, without their texts: those may quote a header, the token."""
    names = []
    at: BaseException | None = error
    while at is not None:
        names.append(type(at).__name__)
        at = at.__cause__ or at.__context__
    return " < ".join(names)


def _data(name: str, reply: Reply) -> object:
    """Return what a read brought.

    Raises:
        LoginRequired: The access token was refused.
        BrokerUnavailable: Anything else but a success.
    """
    if reply.failure == NO_ACCESS_TOKEN:
        raise LoginRequired(f"{name}: {NO_ACCESS_TOKEN}")
    if reply.http_status is None:
        raise BrokerUnavailable(f"no answer to {name}: {reply.failure}")
    body = reply.body or {}
    told = f"{body.get('error_type')}: {body.get('message')}"
    text = "".join(c if c.isprintable() else " " for c in told)[:MESSAGE_CHARACTERS_MAX]
    if reply.http_status == HTTP_FORBIDDEN and body.get("error_type") == "TokenException":
        raise LoginRequired(f"{name}: {text}")
    if reply.http_status == HTTP_TOO_MANY:
        raise BrokerThrottled(f"{name}: {text}")
    if reply.http_status != HTTP_OK or body.get("status") != "success":
        raise BrokerUnavailable(f"{name} answered HTTP {reply.http_status}, {text}")
    return body.get("data")


def _readable(read: Callable[[object], T]) -> Callable[[object], T]:
    """Return a reading of what came that fails as the port says."""

    def checked(data: object) -> T:
        try:
            return read(data)
        except kite_rows.RowMalformed as error:
            raise BrokerUnavailable(f"not whole and readable: {error}") from error

    return checked


def _object(data: object) -> Mapping[str, object]:
    if not isinstance(data, dict):
        raise BrokerUnavailable(f"an object was expected, not {type(data).__name__}")
    return data


def _objects(data: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(data, list):
        raise BrokerUnavailable(f"a list was expected, not {type(data).__name__}")
    return [_object(part) for part in data]
