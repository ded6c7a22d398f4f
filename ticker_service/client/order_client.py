"""Send orders over the daemon's WebSocket and follow what becomes of them.

One connection, one reader task; replies are matched by ``request_id``, events are handed on in
order. After a lost connection make a new client and subscribe after the last ``account_seq`` you
have; repeating a request with its key is always safe (docs/orders.md).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, Self

import orjson
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from ticker_service.errors import TickerServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from websockets.asyncio.client import ClientConnection

OPEN_S_MAX: Final = 10.0
REPLY_S_MAX: Final = 10.0
EVENTS_WAITING_MAX: Final = 10_000
"""Whoever follows and does not take its events is not answered either, once so many wait."""
IN_DOUBT: Final = frozenset({"JOURNAL_UNAVAILABLE", "INTERNAL"})
"""The codes after which a request may have been taken (docs/orders.md)."""
KEY_CHARACTERS_MAX: Final = 64
"""A refusal of a longer key names this much of it."""


class OrderDoorClosed(TickerServiceError):  # noqa: N818 - says what happened
    """The daemon cannot be reached, or closed the connection."""


class OrderError(TickerServiceError):
    """The daemon said no, or could not even be asked; nothing was done, but see `OrderInDoubt`.

    ``answer`` has ``code`` and, from the daemon, ``field``, ``value`` and ``rule``.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("message") or answer.get("code")))
        self.answer = dict(answer)


class OrderInDoubt(OrderError):  # noqa: N818 - says what is known
    """The daemon cannot say whether it took the request: send the same again with the same key.

    With a new key there may be two orders. Raised for the codes :data:`IN_DOUBT`.
    """


class OrderClient:
    """Use as ``async with OrderClient(url, token) as client``; belongs to one event loop."""

    def __init__(self, url: str, token: str) -> None:
        """Take where and who.

        Args:
            url: The door, such as ``ws://127.0.0.1:8780/v1/orders/ws``.
            token: From ``ticker-service token create``.
        """
        self._url = url
        self._token = token
        self._socket: ClientConnection | None = None
        self._replies: defaultdict[str, deque[asyncio.Future[dict[str, Any]]]] = defaultdict(deque)
        self._numbers = itertools.count(1)
        self._is_over = False
        self.why_closed = "the connection closed"
        """What the daemon said when it closed the connection, such as that the token ended."""
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(EVENTS_WAITING_MAX)
        self._tasks = asyncio.TaskGroup()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect and authenticate.

        Raises:
            OrderDoorClosed: The daemon is not there or does not take the token.
        """
        if not self._token:
            raise OrderDoorClosed(
                "Condition failed: there is no token; set TICKER_ORDERS_TOKEN, or pass one, from "
                "`ticker-service token create`"
            )
        if not (self._token.isascii() and self._token.isprintable()):
            raise OrderDoorClosed("Condition failed: the token is no word that a header can hold")
        try:
            async with asyncio.timeout(OPEN_S_MAX):
                hello = await self._connect()
        except (OSError, TimeoutError, WebSocketException, ValueError) as error:
            await self._hang_up()
            # That of a timeout says nothing.
            why = str(error) or f"no answer within {OPEN_S_MAX:.0f} s"
            raise OrderDoorClosed(f"no order door at {self._url}: {why}") from error
        if hello.get("op") == "error":
            await self._hang_up()
            raise error_of(hello)
        await self._tasks.__aenter__()
        if self._socket is not None:
            self._reader = self._tasks.create_task(self._read(self._socket))
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close the connection."""
        await self._hang_up()
        if self._reader is not None:
            self._reader.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def place(
        self,
        client_order_id: str,
        account: str | None,
        order: Mapping[str, object],
        *,
        group: str | None = None,
        is_to_be_sliced: bool = False,
    ) -> dict[str, Any]:
        """Send a new order in Kite's field names; return the task once it is durable.

        Args:
            client_order_id: Your name for it, and its idempotency key.
            account: Whose order; None with a group.
            order: Kite's fields.
            group: A declared group, one of whose accounts takes it.
            is_to_be_sliced: Cut it if it is above the freeze quantity; a job is returned.

        Raises:
            OrderInDoubt: Nobody can say whether it was taken; send the same again.
            OrderError: Refused; nothing was done.
            OrderDoorClosed: The connection went; send the same again on a new one.
        """
        given = {"account": account, "group": group}
        whose = {name: each for name, each in given.items() if each is not None}
        return await self._ask(
            {
                "op": "place",
                "request_id": client_order_id,
                "client_order_id": client_order_id,
                **whose,
                "order": dict(order),
            }
            | ({"slice": True} if is_to_be_sliced else {})
        )

    async def basket(
        self,
        client_order_id: str,
        account: str,
        legs: Sequence[Mapping[str, object]],
        *,
        mode: str = "independent",
        is_buys_first: bool = False,
    ) -> dict[str, Any]:
        """Send several orders under one key; return the job once it is durable; as :meth:`place`.

        Args:
            client_order_id: Your name for the basket.
            account: Where all of it is traded.
            legs: Each ``{"order": {…}}``, with ``"slice": True`` where it may be cut.
            mode: ``independent`` or ``all_or_compensate``.
            is_buys_first: No SELL leaves before every BUY is filled.
        """
        return await self._ask(
            {
                "op": "basket",
                "request_id": client_order_id,
                "client_order_id": client_order_id,
                "account": account,
                "legs": [dict(leg) for leg in legs],
                "mode": mode,
                "buys_first": is_buys_first,
            }
        )

    async def exit_positions(
        self, client_order_id: str, account: str, terms: Mapping[str, object]
    ) -> dict[str, Any]:
        """Close one position, or all of an account; return the exit once it is durable.

        As :meth:`place`; how it goes on is told by events, and by :meth:`status`.

        Args:
            client_order_id: Your name for the exit.
            account: Whose positions.
            terms: ``{"all": True}``, or ``exchange``, ``tradingsymbol`` and if wanted ``product``;
                beside it ``market_protection``, ``order_type``, ``cancel_resting`` and
                ``within_s``.
        """
        request = {"op": "exit", "request_id": client_order_id, "account": account}
        return await self._ask({**dict(terms), **request, "client_order_id": client_order_id})

    async def modify(
        self, client_order_id: str, request_id: str, change: Mapping[str, object]
    ) -> dict[str, Any]:
        """Send a change of a live order; as :meth:`place`."""
        return await self._ask(
            {
                "op": "modify",
                "request_id": request_id,
                "client_order_id": client_order_id,
                "order": dict(change),
            }
        )

    async def cancel(self, client_order_id: str, request_id: str) -> dict[str, Any]:
        """Send the cancel of an order; as :meth:`place`."""
        return await self._ask(
            {"op": "cancel", "request_id": request_id, "client_order_id": client_order_id}
        )

    async def exit(self, client_order_id: str, request_id: str) -> dict[str, Any]:
        """Send the exit of a cover order, which closes what it holds; as :meth:`place`."""
        request = {"op": "cancel", "request_id": request_id, "client_order_id": client_order_id}
        return await self._ask({**request, "exit": True})

    async def status(self, client_order_id: str) -> dict[str, Any]:
        """Return an order as the journal has it."""
        number = f"status-{next(self._numbers)}"
        request = {"op": "status", "request_id": number, "client_order_id": client_order_id}
        return await self._ask(request)

    async def subscribe(self, after: Mapping[str, int | None]) -> None:
        """Follow accounts, each after a number, or from now on with None."""
        number = f"subscribe-{next(self._numbers)}"
        await self._ask({"op": "subscribe", "request_id": number, "after": dict(after)})

    async def cancel_on_disconnect(self, session: str, after_s: int) -> None:
        """Have what is placed from now on cancelled when this session is gone for so long.

        Whoever connects again and names the session before that keeps its orders.

        Args:
            session: A name of the caller's own; one for a connection.
            after_s: 1 to 300.
        """
        number = f"session-{next(self._numbers)}"
        request = {"op": "cancel_on_disconnect", "request_id": number, "session": session}
        await self._ask({**request, "after_s": after_s})

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield events of the accounts subscribed, in order, until the connection ends."""
        while not (self._is_over and self._events.empty()):
            event = await self._events.get()
            if event is not None:
                yield event

    async def _connect(self) -> dict[str, Any]:
        self._socket = await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {self._token}"},
            compression=None,
            proxy=None,
            open_timeout=None,
        )
        return _object_of(await self._socket.recv())

    async def _hang_up(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._socket is None:
            raise OrderDoorClosed("Condition failed: use the client inside its async with block")
        if self._is_over:
            raise OrderDoorClosed(self.why_closed)
        frame = _frame_of(request)
        key = str(request["request_id"])[:KEY_CHARACTERS_MAX]
        reply = asyncio.get_running_loop().create_future()
        # The same key twice at once is answered twice, in the order of asking.
        self._replies[key].append(reply)
        try:
            await self._socket.send(frame)
            async with asyncio.timeout(REPLY_S_MAX):
                answer: dict[str, Any] = await reply
        except ConnectionClosed as error:
            raise OrderDoorClosed(f"the connection closed: {error}") from error
        except TimeoutError as error:
            raise OrderDoorClosed(f"no reply within {REPLY_S_MAX:.0f} s") from error
        finally:
            self._forget(key, reply)
        if answer.get("op") == "error":
            raise error_of(answer)
        return answer

    def _forget(self, key: str, reply: asyncio.Future[dict[str, Any]]) -> None:
        waiting = self._replies[key]
        if reply in waiting:
            waiting.remove(reply)
        if not waiting:
            del self._replies[key]

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for raw in socket:
                message = _object_of(raw)
                if message.get("op") == "event":
                    await self._events.put(message)
                    continue
                waiting = self._replies.get(str(message.get("request_id")), ())
                reply = next((each for each in waiting if not each.done()), None)
                if reply is not None:
                    reply.set_result(message)
        except ConnectionClosed:
            pass
        except ValueError as error:
            self.why_closed = f"the connection is of no use: {error}"
        finally:
            self._is_over = True
            if socket.close_reason:
                self.why_closed += f": {socket.close_reason}"
            for reply in itertools.chain.from_iterable(self._replies.values()):
                if not reply.done():
                    reply.set_exception(OrderDoorClosed(self.why_closed))
            if not self._events.full():
                self._events.put_nowait(None)


def error_of(answer: Mapping[str, Any]) -> OrderError:
    """Return what a refusal of the daemon is raised as."""
    return (OrderInDoubt if answer.get("code") in IN_DOUBT else OrderError)(answer)


def _frame_of(request: Mapping[str, Any]) -> str:
    """Return a request as it goes out; one that JSON cannot hold is refused here."""
    try:
        return orjson.dumps(request, default=str).decode()
    except orjson.JSONEncodeError as error:
        message = f"Condition failed: the request cannot be written as JSON: {error}"
        raise OrderError({"code": "INVALID_REQUEST", "message": message}) from error


def _object_of(raw: str | bytes) -> dict[str, Any]:
    """Return what the door said; anything but an object comes from no order door."""
    message = orjson.loads(raw)
    if not isinstance(message, dict):
        raise ValueError(f"a frame is no JSON object but {type(message).__name__}")  # noqa: TRY004
    return message
