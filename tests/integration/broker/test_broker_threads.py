"""Threads, deadlines and cancellation between the event loop and the blocking client."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

from asking import LONG_S, ORDER, SHORT_S, TAG, broker_at, in_s, place_once, play
from hostile_broker import ACKED, WAIT_S, HostileBroker, always, success

from ticker_service.adapters.kite_broker import BrokerLane, BrokerOptions
from ticker_service.domain.order import TaskKind, Variety
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.ports import Withheld

if TYPE_CHECKING:
    import pytest
    from hostile_broker import Received

    from ticker_service.adapters.kite_broker import KiteBroker
    from ticker_service.ports import Reply

NARROW = BrokerOptions(order_threads=1, cancel_threads=1, read_threads=1, waiting_max=1)


class Gate:
    """Answers only once it is opened."""

    def __init__(self, response: bytes = ACKED) -> None:
        self.is_open = threading.Event()
        self._response = response

    def __call__(self, connection: socket.socket, received: Received) -> None:
        if received.method == "POST":
            self.is_open.wait(WAIT_S)
        connection.sendall(self._response)


def outcome(reply: Reply) -> Outcome:
    return classify.judge(TaskKind.PLACE, reply).outcome


def test_a_cancel_overtakes_orders_that_wait() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            placing = [tasks.create_task(place(broker)) for _ in range(2)]
            await asyncio.to_thread(server.wait_for_request)
            reply = await broker.cancel("1", Variety.REGULAR, deadline_ns=in_s(LONG_S))
            assert outcome(reply) is Outcome.ACKED
            assert not any(task.done() for task in placing)
            gate.is_open.set()

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW), scene)


async def place(broker: KiteBroker, *, within_s: float = LONG_S) -> Reply:
    return await broker.place(ORDER, tag=TAG, deadline_ns=in_s(within_s))


def test_one_order_too_many_is_refused_at_once_and_never_sent() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            waiting = tasks.create_task(place(broker))
            await asyncio.sleep(0)
            refused = await place(broker)
            assert refused.withheld is Withheld.NOTHING_LEFT
            assert not sent.done()
            gate.is_open.set()
            assert outcome(await sent) is Outcome.ACKED
            assert outcome(await waiting) is Outcome.ACKED
            # There is room again.
            assert outcome(await place(broker)) is Outcome.ACKED

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW), scene)
        assert len(server.requests) == 3


def test_each_lane_says_how_many_wait_and_which_were_refused() -> None:
    gate = Gate()
    full: list[BrokerLane] = []

    async def scene(broker: KiteBroker) -> None:
        def waiting() -> list[int]:
            return [broker.waiting(lane) for lane in BrokerLane]

        async with asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            assert waiting() == [0, 0, 0]
            queued = tasks.create_task(place(broker))
            await asyncio.sleep(0)
            assert waiting() == [1, 0, 0]
            await place(broker)
            assert (waiting(), full) == ([1, 0, 0], [BrokerLane.ORDERS])
            queued.cancel()
            await asyncio.wait([queued])
            assert waiting() == [0, 0, 0]
            last = tasks.create_task(place(broker))
            await asyncio.sleep(0)
            assert waiting() == [1, 0, 0]
            gate.is_open.set()
            await sent
            await last
            assert waiting() == [0, 0, 0]

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW, on_full=full.append), scene)


def test_an_order_whose_time_ends_in_the_queue_is_never_sent() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            late = await place(broker, within_s=SHORT_S)
            assert late.withheld is Withheld.NOTHING_LEFT
            gate.is_open.set()
            assert outcome(await sent) is Outcome.ACKED

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW), scene)
        assert len(server.requests) == 1


def test_an_order_whose_caller_is_cancelled_is_sent_once_and_its_thread_ends() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            placing = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            placing.cancel()
            await asyncio.wait([placing])
            assert placing.cancelled()
            gate.is_open.set()
        # The only thread is free again once the answer nobody waits for has been read.
        assert outcome(await place(broker)) is Outcome.ACKED

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW), scene)
        assert len(server.requests) == 2


def test_an_order_whose_caller_is_cancelled_in_the_queue_is_never_sent() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            queued = tasks.create_task(place(broker))
            await asyncio.sleep(0)
            queued.cancel()
            await asyncio.wait([queued])
            gate.is_open.set()
            await sent
            assert outcome(await place(broker)) is Outcome.ACKED

    with HostileBroker(gate) as server:
        play(broker_at(server.root, options=NARROW), scene)
        assert len(server.requests) == 2


def test_an_order_whose_caller_is_cancelled_before_its_first_byte_is_never_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, may_find = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: str, *arguments: object, **named: object) -> object:
        if host == "broker.invalid":
            asked.set()
            may_find.wait(WAIT_S)
            host = "127.0.0.1"
        return resolve(host, *arguments, **named)  # type: ignore[arg-type]

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            placing = tasks.create_task(place(broker))
            await asyncio.to_thread(asked.wait, WAIT_S)
            placing.cancel()
            await asyncio.wait([placing])
            may_find.set()

    with HostileBroker(always(ACKED)) as server:
        broker = broker_at(f"http://broker.invalid:{server.port}")
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        play(broker, scene)
        assert server.requests == []


def test_closing_lets_what_is_under_way_end_and_takes_no_more() -> None:
    gate = Gate()

    async def scene(broker: KiteBroker) -> None:
        async with asyncio.TaskGroup() as tasks:
            sent = tasks.create_task(place(broker))
            await asyncio.to_thread(server.wait_for_request)
            closing = tasks.create_task(broker.close())
            await asyncio.sleep(0)
            late = await place(broker)
            assert late.withheld is Withheld.NOTHING_LEFT
            assert not closing.done()
            gate.is_open.set()
            assert outcome(await sent) is Outcome.ACKED
        await broker.close()

    with HostileBroker(gate) as server:
        play(broker_at(server.root), scene)
        assert len(server.requests) == 1


def test_the_crash_points_of_an_order_are_before_and_after_its_answer() -> None:
    points: list[tuple[str, int]] = []
    gate = Gate()

    def reach(point: str) -> None:
        if point == "C4":
            server.wait_for_request()
            assert not gate.is_open.is_set()
            gate.is_open.set()
        points.append((point, len(server.requests)))

    with HostileBroker(gate) as server:
        assert outcome(place_once(broker_at(server.root, reach=reach))) is Outcome.ACKED
    assert points == [("C4", 1), ("C5", 1)]


def test_reading_the_book_reaches_no_crash_point() -> None:
    points: list[str] = []
    with HostileBroker(always(success([]))) as server:
        play(broker_at(server.root, reach=points.append), lambda it: it.orders())
    assert points == []
