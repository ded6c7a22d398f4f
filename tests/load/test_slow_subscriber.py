"""A subscriber that reads nothing: the publisher and everybody else go on as if it were not there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from ticker_service.adapters.redis_publisher import RedisPublisher
from ticker_service.ports import Outgoing

if TYPE_CHECKING:
    from app.embedded import EmbeddedRedis

CHANNEL = "load:ticks:NIFTY"
KIB = 1_024
TOTAL_BYTES = 96 << 20
DEADLINE_S = 30.0


def subscribe_and_sleep(server: EmbeddedRedis) -> socket.socket:
    """Subscribe by hand through a tiny window, and never read again."""
    password = server.url.split(":")[2].split("@", maxsplit=1)[0]
    sleeper = socket.socket()
    sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sleeper.connect(("127.0.0.1", server.port))
    sleeper.sendall(f"AUTH {password}\r\nSUBSCRIBE {CHANNEL}\r\n".encode())
    answer = b""
    while answer.count(b"\r\n") < 7:
        answer += sleeper.recv(1_024)
    return sleeper


@pytest.mark.parametrize(
    "message_bytes",
    [
        12 * KIB,
        pytest.param(
            64 * KIB,
        ),
    ],
)
def test_a_subscriber_that_sleeps_slows_nobody_and_is_cut_off(
    own_redis: EmbeddedRedis, message_bytes: int
) -> None:
    count = TOTAL_BYTES // message_bytes
    received: list[int] = []

    async def read(client: Redis, ready: asyncio.Event) -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(CHANNEL)
            await pubsub.get_message(ignore_subscribe_messages=False, timeout=5.0)
            ready.set()
            while len(received) < count:
                message = await pubsub.get_message(timeout=5.0)
                if message is not None:
                    received.append(int(message["data"][:8]))

    async def scene() -> None:
        publisher = RedisPublisher(own_redis.url, channel_prefix="ticker:v1:")
        async with (
            contextlib.AsyncExitStack() as stack,
            asyncio.timeout(DEADLINE_S),
            Redis.from_url(own_redis.url) as client,
            asyncio.TaskGroup() as tasks,
        ):
            stack.push_async_callback(publisher.close)
            ready = asyncio.Event()
            tasks.create_task(read(client, ready))
            await ready.wait()
            assert (await client.pubsub_numsub(CHANNEL))[0][1] == 2
            body = b"x" * (message_bytes - 8)
            for number in range(count):
                # Every send has to be confirmed within the publisher's own time limit.
                await publisher.send(Outgoing(messages=[(CHANNEL, b"%08d" % number + body)]))
        assert received == list(range(count))
        async with Redis.from_url(own_redis.url) as client:
            # The server puts an end to the sleeper, whose backlog it would have to keep.
            async with asyncio.timeout(2.0):
                while (await client.pubsub_numsub(CHANNEL))[0][1]:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            stats = await client.info("stats")
            assert stats["client_output_buffer_limit_disconnections"] == 1

    with contextlib.closing(subscribe_and_sleep(own_redis)):
        asyncio.run(scene())
