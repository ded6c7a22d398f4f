"""Order events on a real server: none is lost from the stream, and no stream swallows them."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import redis
from structlog.testing import capture_logs

from ticker_service.adapters.redis_events import PUT_ASIDE, RedisOrderEvents
from ticker_service.domain.order import Account, OrderEvent
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.embedded import EmbeddedRedis

MAIN = Account("MAIN")


def event_of(number: int, **changed: Any) -> OrderEvent:
    values: dict[str, Any] = {
        "event_id": uuid.uuid4(),
        "account": MAIN,
        "account_seq": number,
        "task_id": uuid.uuid4(),
        "version": 1,
        "event": "received",
        "event_version": 1,
        "at_ns": number,
        "principal": "desk",
        "client_order_id": f"k-{number}",
        "state": TaskState.RECEIVED,
        "data": {},
    }
    return OrderEvent(**values | changed)


def publish(url: str, prefix: str, *batches: Sequence[OrderEvent]) -> None:
    async def scene() -> None:
        sink = RedisOrderEvents(url, channel_prefix=prefix)
        try:
            for batch in batches:
                await sink.publish(MAIN, batch)
        finally:
            await sink.close()

    asyncio.run(scene())


def kept(client: redis.Redis, stream: str) -> list[str]:
    entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(stream)  # type: ignore[assignment]
    return [orjson.loads(fields[b"event"])["event_id"] for _, fields in entries]


def test_events_that_come_again_are_kept_once(
    redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    told = [event_of(number) for number in (1, 2, 3)]
    publish(redis_url, prefix, told[:2], told, told)
    assert kept(redis_client, f"{prefix}orderlog:MAIN") == [str(each.event_id) for each in told]


def test_a_stream_of_another_journal_is_put_aside_and_swallows_nothing(
    redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    stream = f"{prefix}orderlog:MAIN"
    theirs = [event_of(number) for number in range(1, 8)]
    publish(redis_url, prefix, theirs)
    ours = [event_of(number) for number in range(1, 4)]
    with capture_logs() as logs, pytest.raises(PublishError, match="another journal"):
        publish(redis_url, prefix, ours)
    publish(redis_url, prefix, ours)
    assert kept(redis_client, stream) == [str(each.event_id) for each in ours]
    aside = kept(redis_client, stream + PUT_ASIDE)
    assert aside == [str(each.event_id) for each in theirs]
    assert [entry["event"] for entry in logs] == ["order_log_conflict"]


@pytest.mark.parametrize("theirs", [[1, 3], [5, 6], []], ids=["a-hole", "trimmed", "emptied"])
def test_an_event_that_the_stream_refuses_and_does_not_hold_is_not_taken_for_delivered(
    theirs: list[int], redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    stream = f"{prefix}orderlog:MAIN"
    ours = [event_of(number) for number in (1, 2, 3)]
    ids = {each.account_seq: str(each.event_id) for each in ours}
    for number in theirs or [9]:
        event = orjson.dumps({"event_id": ids.get(number)})
        redis_client.xadd(stream, {"event": event}, id=f"{number}-0")
    if not theirs:
        redis_client.xtrim(stream, maxlen=0, approximate=False)
    with capture_logs() as logs, pytest.raises(PublishError, match="put aside"):
        publish(redis_url, prefix, ours)
    publish(redis_url, prefix, ours)
    assert kept(redis_client, stream) == [str(each.event_id) for each in ours]
    assert [entry["event"] for entry in logs] == ["order_log_conflict"]


def test_a_stream_that_cannot_be_put_aside_holds_events_back(
    redis_url: str, redis_client: redis.Redis, prefix: str
) -> None:
    stream = f"{prefix}orderlog:MAIN"
    redis_client.xadd(stream, {"event": b"{}"}, id="9-0")
    name = prefix.rstrip(":")
    redis_client.acl_setuser(
        name,
        enabled=True,
        nopass=True,
        keys="*",
        channels="*",
        commands=["+@all", "-rename"],
    )
    url = redis_url.replace("redis://", f"redis://{name}:x@")
    with pytest.raises(PublishError, match="cannot be put aside"):
        publish(url, prefix, [event_of(1)])
    redis_client.acl_deluser(name)
    assert redis_client.xlen(stream) == 1


def test_a_server_without_memory_takes_none_of_a_batch_and_all_of_it_afterwards(
    own_redis: EmbeddedRedis, prefix: str
) -> None:
    told = [event_of(number) for number in range(1, 6)]
    with redis.Redis.from_url(own_redis.url) as client:
        before = client.config_get("maxmemory")["maxmemory"]  # type: ignore[index]
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(PublishError):
            publish(own_redis.url, prefix, told)
        client.config_set("maxmemory", before)
        assert kept(client, f"{prefix}orderlog:MAIN") == []
        publish(own_redis.url, prefix, told)
        assert kept(client, f"{prefix}orderlog:MAIN") == [str(each.event_id) for each in told]
