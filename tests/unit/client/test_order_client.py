"""The order client against a door that answers as the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from websockets.asyncio.server import serve

from ticker_service.client import order_client
from ticker_service.client.order_client import (
    OrderClient,
    OrderDoorClosed,
    OrderError,
    OrderInDoubt,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from websockets.asyncio.server import ServerConnection

Frames = list[dict[str, Any]]
LIMIT_S = 10.0


class Door:
    """One connection of a door: says hello, then hands frames to the test."""

    def __init__(self) -> None:
        self.frames: Frames = []
        self.more = asyncio.Event()
        self.hello: dict[str, Any] = {"op": "ack", "authenticated": "desk"}
        self.authorization = ""
        self.answers: Callable[[Door, dict[str, Any]], Awaitable[None]] = echo
        self.socket: ServerConnection | None = None

    async def say(self, **message: Any) -> None:
        assert self.socket is not None
        await self.socket.send(orjson.dumps(message).decode())

    async def live(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.authorization = socket.request.headers["Authorization"]
        await self.say(**self.hello)
        async for raw in socket:
            frame = orjson.loads(raw)
            self.frames.append(frame)
            self.more.set()
            await self.answers(self, frame)

    async def until(self, count: int) -> None:
        while len(self.frames) < count:
            self.more.clear()
            await self.more.wait()


async def echo(door: Door, frame: dict[str, Any]) -> None:
    await door.say(op="ack", request_id=frame["request_id"], of=frame.get("client_order_id"))


async def silent(_: Door, __: dict[str, Any]) -> None:
    return


@contextlib.asynccontextmanager
async def opened(door: Door) -> AsyncIterator[str]:
    async with serve(door.live, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/orders/ws"


def play(scene: Callable[[Door, OrderClient], Awaitable[None]]) -> None:
    async def stage() -> None:
        door = Door()
        async with (
            asyncio.timeout(LIMIT_S),
            opened(door) as url,
            OrderClient(url, "a-token") as client,
        ):
            await scene(door, client)

    asyncio.run(stage())


def test_the_token_goes_in_the_header_and_nowhere_else() -> None:
    async def scene(door: Door, client: OrderClient) -> None:
        await client.place("k", "MAIN", {"price": "100.05"})
        assert door.authorization == "Bearer a-token"
        assert door.socket is not None
        assert door.socket.request is not None
        assert "a-token" not in door.socket.request.path
        assert "a-token" not in str(door.frames)

    play(scene)


def test_each_request_says_what_the_wire_asks_for() -> None:
    async def scene(door: Door, client: OrderClient) -> None:
        await client.place("k", "MAIN", {"price": "100.05"})
        await client.modify("k", "m", {"quantity": 2})
        await client.cancel("k", "c")
        await client.subscribe({"MAIN": 17})
        place, modify, cancel, subscribe = door.frames
        assert place == {
            "op": "place",
            "request_id": "k",
            "client_order_id": "k",
            "account": "MAIN",
            "order": {"price": "100.05"},
        }
        assert (modify["op"], modify["request_id"], modify["order"]) == (
            "modify",
            "m",
            {"quantity": 2},
        )
        assert (cancel["op"], cancel["request_id"]) == ("cancel", "c")
        assert subscribe["after"] == {"MAIN": 17}

    play(scene)


def test_questions_at_once_get_their_own_answers() -> None:
    async def late_and_reversed(door: Door, _: dict[str, Any]) -> None:
        if len(door.frames) == 3:
            for frame in reversed(door.frames):
                await echo(door, frame)

    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = late_and_reversed
        async with asyncio.TaskGroup() as tasks:
            asked = {name: tasks.create_task(client.status(name)) for name in "abc"}
        assert {name: task.result()["of"] for name, task in asked.items()} == {n: n for n in "abc"}

    play(scene)


def test_one_request_repeated_at_once_is_answered_twice() -> None:
    async def scene(_: Door, client: OrderClient) -> None:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(client.place("k", "MAIN", {})) for _ in range(2)]
        assert [task.result()["of"] for task in asked] == ["k", "k"]

    play(scene)


def test_a_refusal_says_code_field_value_and_rule() -> None:
    async def refuse(door: Door, frame: dict[str, Any]) -> None:
        await door.say(
            op="error",
            request_id=frame["request_id"],
            code="INVALID_FIELD",
            message="quantity=0: must be positive",
            field="quantity",
            value=0,
            rule="must be positive",
        )

    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = refuse
        with pytest.raises(OrderError, match="must be positive") as refused:
            await client.place("k", "MAIN", {"quantity": 0})
        assert refused.value.answer["field"] == "quantity"

    play(scene)


@pytest.mark.parametrize(
    ("code", "is_in_doubt"),
    [("JOURNAL_UNAVAILABLE", True), ("INTERNAL", True), ("ACCOUNT_NOT_OPEN", False)],
)
def test_a_no_after_which_it_may_have_been_taken_is_an_error_of_its_own(
    code: str, *, is_in_doubt: bool
) -> None:
    async def refuse(door: Door, frame: dict[str, Any]) -> None:
        await door.say(op="error", request_id=frame["request_id"], code=code)

    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = refuse
        with pytest.raises(OrderError) as refused:
            await client.place("k", "MAIN", {})
        assert isinstance(refused.value, OrderInDoubt) is is_in_doubt

    play(scene)


def test_without_a_token_the_variable_that_holds_it_is_named() -> None:
    with pytest.raises(OrderDoorClosed, match="TICKER_ORDERS_TOKEN"):
        asyncio.run(OrderClient("ws://127.0.0.1:1/", "").__aenter__())


def test_a_door_that_takes_a_connection_and_says_nothing_is_told_with_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_client, "OPEN_S_MAX", 0.01)

    async def stage() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"ws://127.0.0.1:{mute.getsockname()[1]}/"
            with pytest.raises(OrderDoorClosed, match=f"{url}: no answer within"):
                await OrderClient(url, "a-token").__aenter__()

    asyncio.run(stage())


def test_a_key_that_is_too_long_is_refused_and_not_waited_for() -> None:
    async def refuse(door: Door, frame: dict[str, Any]) -> None:
        await door.say(op="error", request_id=frame["request_id"][:64], code="INVALID_REQUEST")

    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = refuse
        with pytest.raises(OrderError):
            await client.cancel("k", "x" * 100)

    play(scene)


def test_events_come_in_their_order_between_replies() -> None:
    async def scene(door: Door, client: OrderClient) -> None:
        await client.subscribe({"MAIN": None})
        for number in range(3):
            await door.say(op="event", account_seq=number)
        events = client.events()
        assert [(await anext(events))["account_seq"] for _ in range(3)] == [0, 1, 2]

    play(scene)


def test_a_connection_that_closes_ends_the_waiting_and_the_events() -> None:
    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = silent
        async with asyncio.TaskGroup() as tasks:
            asked = tasks.create_task(_outcome(client.status("k")))
            await door.until(1)
            assert door.socket is not None
            await door.socket.close(4401, "token expired")
        assert isinstance(asked.result(), OrderDoorClosed)
        assert [event async for event in client.events()] == []
        with pytest.raises(OrderDoorClosed):
            await client.status("k")

    play(scene)


def test_a_consumer_that_lets_its_buffer_fill_gets_all_of_it_and_then_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(order_client, "EVENTS_WAITING_MAX", 4)

    async def scene(door: Door, client: OrderClient) -> None:
        await client.subscribe({"MAIN": None})
        for number in range(4):
            await door.say(op="event", account_seq=number)
        assert door.socket is not None
        await door.socket.close()
        assert [event["account_seq"] async for event in client.events()] == [0, 1, 2, 3]

    play(scene)


def test_a_door_that_does_not_take_the_token_says_why() -> None:
    async def stage() -> None:
        door = Door()
        door.hello = {"op": "error", "code": "TOKEN_EXPIRED", "message": "TOKEN_EXPIRED: ended"}
        async with asyncio.timeout(LIMIT_S), opened(door) as url:
            with pytest.raises(OrderError, match="TOKEN_EXPIRED"):
                await OrderClient(url, "stale").__aenter__()

    asyncio.run(stage())


@pytest.mark.parametrize(
    "url",
    ["ws://127.0.0.1:1/", "nonsense", "http://127.0.0.1:1/", "ws://", "ws://127.0.0.1:x/"],
)
def test_a_door_that_cannot_be_reached_is_one_clear_error(url: str) -> None:
    async def stage() -> None:
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises(OrderDoorClosed) as closed:
                await OrderClient(url, "a-token").__aenter__()
            assert "a-token" not in str(closed.value)

    asyncio.run(stage())


@pytest.mark.parametrize("token", ["", "a\nb", "schlüssel", "a" * 70_000])
def test_a_token_that_no_header_can_hold_is_one_clear_error(token: str) -> None:
    async def stage() -> None:
        door = Door()
        async with asyncio.timeout(LIMIT_S), opened(door) as url:
            with pytest.raises(OrderDoorClosed):
                async with OrderClient(url, token):
                    raise OrderDoorClosed("the door of this test takes any token")

    asyncio.run(stage())


def test_outside_its_block_a_client_says_so() -> None:
    with pytest.raises(OrderDoorClosed, match="Condition failed"):
        asyncio.run(OrderClient("ws://127.0.0.1:1/", "t").status("k"))


async def _outcome(question: Awaitable[Any]) -> Any:
    try:
        return await question
    except OrderDoorClosed as error:
        return error


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.place("k", "MAIN", {"quantity": 10**23}),
        lambda client: client.subscribe({"MAIN": 10**23}),
        lambda client: client.status("a\udcff"),
    ],
    ids=["quantity", "after", "key"],
)
def test_what_json_cannot_hold_is_refused_and_the_client_goes_on(
    ask: Callable[[OrderClient], Awaitable[object]],
) -> None:
    async def scene(door: Door, client: OrderClient) -> None:
        with pytest.raises(OrderError, match="Condition failed") as refused:
            await ask(client)
        assert refused.value.answer["code"] == "INVALID_REQUEST"
        assert door.frames == []
        assert (await client.status("k"))["of"] == "k"

    play(scene)


@pytest.mark.parametrize("said", ["[1]", "7", "null", "garbage"])
def test_a_server_that_greets_in_another_language_is_no_order_door(said: str) -> None:
    async def greet(socket: ServerConnection) -> None:
        await socket.send(said)
        await socket.wait_closed()

    async def stage() -> None:
        async with asyncio.timeout(LIMIT_S), serve(greet, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            with pytest.raises(OrderDoorClosed, match="no order door"):
                await OrderClient(f"ws://127.0.0.1:{port}", "a-token").__aenter__()

    asyncio.run(stage())


@pytest.mark.parametrize("said", ["[1]", "garbage"])
def test_an_answer_in_another_language_ends_the_connection(said: str) -> None:
    async def babble(door: Door, _: dict[str, Any]) -> None:
        assert door.socket is not None
        await door.socket.send(said)

    async def scene(door: Door, client: OrderClient) -> None:
        door.answers = babble
        with pytest.raises(OrderDoorClosed, match="of no use"):
            await client.status("k")

    play(scene)
