"""WebSocket door for orders: ``/v1/orders/ws``, one JSON object per frame (DESIGN §5).

A socket has one task that answers requests in their order and, once it has subscribed, one per
account that reads the account's events from where the caller left off. Nothing is queued for a
slow caller: its cursor waits in the journal (I9, I15).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
import structlog
from pydantic import Field, ValidationError
from starlette.websockets import WebSocketDisconnect, WebSocketState

from app.http import exact_json
from app.http.exits import ExitRequest, exit_answer, status_answer
from app.http.faults import EXPECTED, INTEGER_MAX, answer_of, internal, not_json, text_of
from app.http.schemas import (
    KEY_CHARACTERS_MAX,
    BasketRequest,
    Key,
    ModifyRequest,
    PartKey,
    PlaceRequest,
    Strict,
    job_answer,
    task_answer,
)
from app.security.tokens import Scope, TokenFault, TokenRefused
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import event_message
from ticker_service.errors import JournalUnavailable, OrderRefused
from ticker_service.orders.disconnects import AFTER_S_MAX
from ticker_service.orders.report import wait_for_news

if TYPE_CHECKING:
    from fastapi import WebSocket

    from app.doors import Doors, KnownCaller
    from app.security.limits import ConnectionSlot
    from ticker_service.orders.instructions import Answer

log = structlog.get_logger()

FRAME_BYTES_MAX: Final = 8_192
AUTH_S_MAX: Final = 5.0
SEND_S_MAX: Final = 30.0
"""A caller that takes nothing for so long is gone."""
CLOSE_S_MAX: Final = 5.0
"""Nor need it take the close frame."""
EVENTS_PER_READ_MAX: Final = 100
FAULTS_MAX: Final = 50
"""A socket whose frames are so often unreadable is not speaking our language."""

UNAUTHENTICATED: Final = 4401
GONE: Final = 1000
POLICY: Final = 1008
TOO_BIG: Final = 1009
FAULT_OF_OURS: Final = 1011
TRY_LATER: Final = 1013
TOO_MANY_CONNECTIONS: Final = "TOO_MANY_CONNECTIONS"


class _Target(Strict):
    """What `cancel` and `status` name."""

    client_order_id: PartKey
    request_id: Key


class _Cancel(_Target):
    """The same, and with ``exit`` the second leg of a cover order: its position is closed."""

    exit: bool = False


class _Modify(ModifyRequest):
    """The change of an order with the order's name beside it, where REST has it in the path."""

    client_order_id: PartKey


class _CancelOnDisconnect(Strict):
    """The session of a socket, and how long it may be gone before its orders are cancelled."""

    session: Key
    after_s: Annotated[int, Field(strict=True, ge=1, le=AFTER_S_MAX)]
    request_id: Key | None = None


class _Ping(Strict):
    """A sign of life, answered with its own ``request_id``."""

    request_id: Key | None = None


class _Subscribe(Strict):
    """Accounts to follow, each after a number or from now on."""

    after: dict[str, Annotated[int, Field(strict=True, ge=0, le=INTEGER_MAX)] | None]
    request_id: Key | None = None


class _Gone(Exception):  # noqa: N818 - says what happened
    """The caller takes nothing any more."""


async def serve(websocket: WebSocket, doors: Doors) -> None:
    """Serve one socket until it closes, its token ends, or it breaks the rules."""
    is_known = doors.knows(websocket.headers.get("authorization", ""))
    slot = doors.connections.enter(is_known=is_known)
    if slot is None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # it went meanwhile
            await _turn_away(websocket)
        return
    session = _Session(websocket, doors, slot)
    try:
        await session.run()
    except (WebSocketDisconnect, _Gone):
        pass
    except Exception:  # the root of a socket, which holds up no other
        log.exception("order_door_failed", door="socket")
        await session.close(_End(FAULT_OF_OURS, "INTERNAL"))
    finally:
        slot.release()


async def _turn_away(websocket: WebSocket) -> None:
    """Open before closing: a closed handshake is an HTTP 403 without a reason to a client."""
    await websocket.accept()
    refused = OrderRefused(TOO_MANY_CONNECTIONS, "all places for connections are taken; try later")
    _, body = answer_of(refused)
    await websocket.send_text(_written({"op": "error", **body}))
    await websocket.close(TRY_LATER, TOO_MANY_CONNECTIONS)


@dataclass(frozen=True, slots=True)
class _End:
    """Why a session ends, as its close frame says."""

    code: int
    reason: str


class _Session:
    def __init__(self, websocket: WebSocket, doors: Doors, slot: ConnectionSlot) -> None:
        self._websocket = websocket
        self._doors = doors
        self._slot = slot
        self._sending = asyncio.Lock()
        self._faults = 0
        self._session: str | None = None
        """The session taken up, whose orders are cancelled when it is lost."""
        self._facts: dict[str, object] | None = None
        """What orders placed over this socket carry."""

    async def run(self) -> None:
        await self._websocket.accept()
        caller = await self._authenticate()
        if isinstance(caller, _End):
            await self.close(caller)
            return
        lifetime_s = (caller.expires_at_ns - self._doors.clock.now_ns()) / NS_PER_S
        end = _End(UNAUTHENTICATED, "token expired")
        try:
            async with asyncio.TaskGroup() as followers:
                following: dict[str, asyncio.Task[None]] = {}
                try:
                    async with asyncio.timeout(max(lifetime_s, 0.0)):
                        end = await self._converse(caller, followers, following)
                except TimeoutError:
                    pass
                finally:
                    for task in following.values():
                        task.cancel()
        except* _Gone:
            # An open socket that gets no more events would look like a quiet account.
            end = _End(TRY_LATER, "took nothing for too long; subscribe again after your newest")
        finally:
            if self._session is not None:
                self._doors.front.disconnects.lose(caller, self._session)
        await self.close(end)

    async def _authenticate(self) -> KnownCaller | _End:
        """Take the token from the header, else from the first frame within its time."""
        try:
            header = self._websocket.headers.get("authorization", "")
            if header:
                caller = self._doors.caller_of(header)
            else:
                async with asyncio.timeout(AUTH_S_MAX):
                    raw = await self._websocket.receive_text()
                caller = self._doors.caller_of_token(_token_of(raw))
                self._doors.count(caller)
        except TimeoutError:
            return _End(UNAUTHENTICATED, "no auth frame in time")
        except KeyError:
            return _End(POLICY, "text frames only")
        except (TokenRefused, OrderRefused) as error:
            await self._refuse(error, None)
            is_too_fast = error.code == "TOO_MANY_REQUESTS"
            return _End(TRY_LATER if is_too_fast else UNAUTHENTICATED, error.code)
        if not self._slot.name(caller.principal):
            rule = "you have as many connections as one caller may; close one"
            await self._refuse(OrderRefused(TOO_MANY_CONNECTIONS, rule), None)
            return _End(TRY_LATER, TOO_MANY_CONNECTIONS)
        await self._send({"op": "ack", "request_id": None, "authenticated": caller.principal})
        return caller

    async def _converse(
        self,
        caller: KnownCaller,
        followers: asyncio.TaskGroup,
        following: dict[str, asyncio.Task[None]],
    ) -> _End:
        """Answer frames in their order until the caller breaks the rules."""
        while True:
            try:
                raw = await self._websocket.receive_text()
            except WebSocketDisconnect:
                return _End(GONE, "")
            except KeyError:
                return _End(POLICY, "text frames only")
            if len(raw) > FRAME_BYTES_MAX:
                return _End(TOO_BIG, f"a frame is at most {FRAME_BYTES_MAX} characters")
            self._doors.reach("C0")
            request_id: str | None = None
            try:
                frame = _frame_of(raw)
                request_id = _request_id_of(frame)
                self._doors.count(caller)
                if frame.get("op") == "subscribe":
                    del frame["op"]
                    await self._subscribe(frame, caller, followers, following)
                else:
                    await self._answer(frame, caller)
            except EXPECTED as error:
                await self._refuse(error, request_id)
                self._faults += isinstance(error, ValidationError) or request_id is None
                if self._faults > FAULTS_MAX:
                    return _End(POLICY, "too many unreadable frames")
            except (_Gone, WebSocketDisconnect):
                raise
            except Exception:  # the root of a request: one that meets a bug of ours is answered
                log.exception("order_door_failed", door="socket")
                await self._send({"op": "error", **internal(request_id)})

    async def _answer(self, frame: dict[str, Any], caller: KnownCaller) -> None:
        op = frame.pop("op", None)
        front, demand = self._doors.front, self._doors.demand
        answer: Answer
        match op:
            case "ping":
                ping = _Ping.model_validate(frame)
                await self._send({"op": "pong", "request_id": ping.request_id})
                return
            case "place":
                demand(caller, Scope.ORDERS_WRITE)
                place = PlaceRequest.model_validate(frame)
                # The orders of a job are none of the session's: half of one is not cancelled.
                asks = (
                    front.jobs.place_sliced
                    if place.slice
                    else partial(front.place, facts=self._facts)
                )
                answer = await asks(
                    caller,
                    account=place.account,
                    group=place.group,
                    client_order_id=place.client_order_id,
                    request_id=place.request_id or place.client_order_id,
                    order=place.order.to_domain(),
                )
                if place.slice:
                    await self._send_job(answer)
                    return
            case "basket":
                demand(caller, Scope.ORDERS_WRITE)
                basket = BasketRequest.model_validate(frame)
                answer = await front.jobs.basket(
                    caller,
                    account=basket.account,
                    client_order_id=basket.client_order_id,
                    request_id=basket.request_id or basket.client_order_id,
                    basket=basket.to_domain(),
                )
                await self._send_job(answer)
                return
            case "exit":
                demand(caller, Scope.ORDERS_WRITE)
                wanted = ExitRequest.model_validate(frame)
                answer = await front.jobs.exit(
                    caller,
                    account=wanted.account,
                    client_order_id=wanted.client_order_id,
                    request_id=wanted.request_id or wanted.client_order_id,
                    wanted=wanted.to_domain(),
                )
                children = () if answer.is_new else await front.jobs.children_of(answer.task)
                await self._send({"op": "ack", **exit_answer(answer.task, children)})
                return
            case "cancel_on_disconnect":
                demand(caller, Scope.ORDERS_WRITE)
                await self._take_up(_CancelOnDisconnect.model_validate(frame), caller)
                return
            case "modify":
                demand(caller, Scope.ORDERS_WRITE)
                modify = _Modify.model_validate(frame)
                answer = await front.modify(
                    caller,
                    client_order_id=modify.client_order_id,
                    request_id=modify.request_id,
                    change=modify.order.to_domain(),
                )
            case "cancel":
                demand(caller, Scope.ORDERS_WRITE)
                cancel = _Cancel.model_validate(frame)
                answer = await front.cancel(
                    caller,
                    client_order_id=cancel.client_order_id,
                    request_id=cancel.request_id,
                    closes=cancel.exit,
                )
            case "status":
                demand(caller, Scope.ORDERS_READ)
                target = _Target.model_validate(frame)
                found = await front.order_or_job(caller, target.client_order_id)
                told = status_answer(found) | {"request_id": target.request_id}
                await self._send({"op": "ack", **told})
                return
            case _:
                raise OrderRefused(
                    "UNKNOWN_OP",
                    "must be auth, place, basket, exit, modify, cancel, status, subscribe, ping or "
                    "cancel_on_disconnect",
                    field="op",
                    value=op,
                )
        await self._send(_ack(answer, answer.task.request_id))

    async def _take_up(self, wanted: _CancelOnDisconnect, caller: KnownCaller) -> None:
        """Let the orders placed from now on go with this socket; said again, only the time moves.

        Raises:
            OrderRefused: This socket has another session, or there are too many.
        """
        disconnects = self._doors.front.disconnects
        if self._session not in {None, wanted.session}:
            rule = f"this socket has the session {self._session}; open another one for a second"
            raise OrderRefused("SESSION_TAKEN", rule, field="session", value=wanted.session)
        self._facts = disconnects.take_up(caller, wanted.session, wanted.after_s)
        if self._session is not None:
            disconnects.lose(caller, wanted.session)  # it was counted before
        self._session = wanted.session
        ack = {"op": "ack", "request_id": wanted.request_id, "session": wanted.session}
        await self._send({**ack, "after_s": wanted.after_s})

    async def _send_job(self, answer: Answer) -> None:
        children = () if answer.is_new else await self._doors.front.jobs.children_of(answer.task)
        await self._send({"op": "ack", **job_answer(answer.task, children)})

    async def _subscribe(
        self,
        frame: dict[str, Any],
        caller: KnownCaller,
        followers: asyncio.TaskGroup,
        following: dict[str, asyncio.Task[None]],
    ) -> None:
        """Follow all accounts after the numbers given, or none of them.

        Without a number an account is followed from its newest event on.
        """
        self._doors.demand(caller, Scope.ORDERS_READ)
        wanted = _Subscribe.model_validate(frame)
        starts: dict[str, int] = {}
        for account, number in wanted.after.items():
            newest = await self._doors.front.last_seq(caller, account)
            if number is not None and number > newest:
                raise self._doors.after_the_newest(f"after.{account}", number, newest)
            starts[account] = newest if number is None else number
        for account, start in starts.items():
            if account in following:
                following.pop(account).cancel()
            following[account] = followers.create_task(self._follow(caller, account, start))
        ack = {"op": "ack", "request_id": wanted.request_id, "following": sorted(following)}
        await self._send(ack)

    async def _follow(self, caller: KnownCaller, account: str, after: int) -> None:
        """Send an account's events in order; the cursor moves when one is on its way.

        Raises:
            _Gone: The caller takes none; the socket is to be closed.
        """
        while True:
            news = self._doors.front.news_of(caller, account)
            try:
                events = await self._doors.front.events(
                    caller, account, after=after, limit=EVENTS_PER_READ_MAX, follows=True
                )
                for event in events:
                    message = event_message(event, may_use=caller.may_use)
                    await self._send({"op": "event", **message})
                    after = event.account_seq
            except JournalUnavailable:
                events = ()
            if len(events) < EVENTS_PER_READ_MAX:
                await wait_for_news(news)

    async def _refuse(self, error: Exception, request_id: str | None) -> None:
        _, body = answer_of(error, request_id)
        await self._send({"op": "error", **body})

    async def _send(self, message: dict[str, Any]) -> None:
        try:
            async with self._sending, asyncio.timeout(SEND_S_MAX):
                await self._websocket.send_text(_written(message))
        except (WebSocketDisconnect, RuntimeError, TimeoutError) as error:
            # A slow one must not be taken for one whose token ended.
            raise _Gone from error

    async def close(self, end: _End) -> None:
        """Close the socket, unless it went meanwhile."""
        if self._websocket.client_state is WebSocketState.CONNECTED:
            # It may go meanwhile, or take nothing at all.
            with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await self._websocket.close(end.code, end.reason)


def _ack(answer: Answer, request_id: str) -> dict[str, Any]:
    return {"op": "ack", **task_answer(answer.task), "request_id": request_id}


def _frame_of(raw: str) -> dict[str, Any]:
    try:
        return exact_json.read_object(raw)
    except json.JSONDecodeError as error:
        raise not_json(error.msg) from None


def _request_id_of(frame: dict[str, Any]) -> str | None:
    """Return what a reply is to be matched by, if the frame says it readably."""
    for name in ("request_id", "client_order_id"):
        value = frame.get(name)
        if isinstance(value, str):
            return text_of(value[:KEY_CHARACTERS_MAX])
    return None


def _written(message: dict[str, Any]) -> str:
    return orjson.dumps(message).decode()


def _token_of(raw: str) -> str:
    frame = _frame_of(raw) if len(raw) <= FRAME_BYTES_MAX else {}
    token = frame.get("token")
    if frame.get("op") != "auth" or not isinstance(token, str):
        raise TokenRefused(TokenFault.INVALID, 'the first frame is {"op": "auth", "token": …}')
    return token
