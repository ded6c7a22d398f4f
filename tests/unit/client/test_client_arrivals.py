"""A caller that takes its time: what waits for it is bounded, in order, and the rest waits outside."""

from __future__ import annotations

import asyncio

from ticker_service.client import arrivals
from ticker_service.client.arrivals import WAITING_BYTES_MAX, WAITING_MAX, Arrivals

MIB = 1 << 20


async def put_all(queue: Arrivals, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        await queue.put(number.to_bytes(4, "big") + bytes(size - 4))


async def waiting_after(sizes: list[int]) -> tuple[Arrivals, list[int]]:
    """Put until nothing more goes in; return the queue, and what came out of it in the end."""
    queue, numbers = Arrivals(), []
    async with asyncio.TaskGroup() as tasks:
        putting = tasks.create_task(put_all(queue, sizes))
        while True:
            await asyncio.sleep(0)
            if putting.done() or len(queue._items) >= WAITING_MAX or queue._bytes >= MIB:
                break
        peak = queue.waiting_bytes
        for _ in sizes:
            item = await queue.get()
            assert isinstance(item, bytes)
            numbers.append(int.from_bytes(item[:4], "big"))
            peak = max(peak, queue.waiting_bytes)
        assert peak <= WAITING_BYTES_MAX + max(sizes)
    return queue, numbers


def test_messages_wait_in_order_and_no_more_than_the_limit_of_either_kind() -> None:
    many, large = [8] * (3 * WAITING_MAX), [MIB] * 100
    for sizes in (many, large):
        queue, numbers = asyncio.run(waiting_after(sizes))
        assert numbers == list(range(len(sizes)))
        assert queue.waiting_bytes == 0


def test_what_is_larger_than_all_the_room_still_comes_through() -> None:
    sizes = [arrivals.WAITING_BYTES_MAX + 1, 8, arrivals.WAITING_BYTES_MAX + 1]
    assert asyncio.run(waiting_after(sizes))[1] == [0, 1, 2]


def test_putting_stops_at_the_limit_and_goes_on_with_the_first_one_taken() -> None:
    async def scene() -> None:
        queue = Arrivals()
        async with asyncio.TaskGroup() as tasks:
            putting = tasks.create_task(put_all(queue, [8] * (WAITING_MAX + 2)))
            for _ in range(3):
                await asyncio.sleep(0)
            assert (len(queue._items), putting.done()) == (WAITING_MAX, False)
            await queue.get()
            for _ in range(3):
                await asyncio.sleep(0)
            assert (len(queue._items), putting.done()) == (WAITING_MAX, False)
            await queue.get()

    asyncio.run(scene())


def test_a_wait_that_is_given_up_loses_nothing() -> None:
    async def scene() -> None:
        queue = Arrivals()
        async with asyncio.TaskGroup() as tasks:
            taking = tasks.create_task(queue.get())
            await asyncio.sleep(0)
            taking.cancel()
        await queue.put(b"here")
        assert await queue.get() == b"here"

    asyncio.run(scene())
