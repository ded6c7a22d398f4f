"""A real daemon when a broken broker recovers, and when a day ends with an order in doubt.

Rows F21 and F32 of the fault matrix in docs/reliability.md.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any, Final

import crash_verdict as verdict
import httpx
import orjson
import redis
from crash_parts import PRINCIPAL, door, limit_order, place_frame
from desk_shell import desk
from running import eventually

from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions
from ticker_service.constants import NS_PER_S, SECONDS_PER_DAY
from ticker_service.domain.order import Account, NewTask, TaskKind, TaskUpdate, body_sha256
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.tag import tag_of
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from crash_parts import Daemon, World

OPEN_S: Final = 3.0
WAITING: Final = 5
UNSENT: Final = frozenset({"RECEIVED", "READY", "SENDING"})


def marketable(own: World) -> dict[str, object]:
    return limit_order("BUY", 1, f"{own.quote()['last_price'] * 1.02:.0f}.00")


def states(own: World) -> dict[str, str]:
    return {row["request_id"]: row["state"] for row in own.tasks()}


def breaker(daemon: Daemon) -> float:
    """Return how the breaker of orders stands: 1 open, 0.5 trying, 0 closed."""
    url = f"{daemon.facts()['health_url']}/metrics"
    lines = httpx.get(url, trust_env=False).text.splitlines()
    wanted = 'breaker="orders"'
    (line,) = [each for each in lines if each.startswith("breaker_open{") and wanted in each]
    return float(line.rpartition(" ")[2])


def test_a_breaker_that_a_failing_broker_opened_tries_once_and_lets_everything_go_once(
    own: World,
) -> None:
    with redis.Redis.from_url(own.redis_url) as client, client.pubsub() as notices:
        notices.subscribe(f"{own.prefix}events")
        daemon = own.start(
            breaker_failures_max=2,
            breaker_open_s=OPEN_S,
            order_deadline_s=60,
            order_settle_after_s=2,
        )
        assert daemon.opens(own.account), daemon.log()
        own.strike("reject_5xx_before_accept", method="place", status_code=503)
        with door(own, daemon) as calls:
            calls.ask(place_frame("first", own.account, marketable(own)))
            assert eventually(lambda: breaker(daemon) == 1.0), daemon.log()
            assert states(own)["first"] in {"UNKNOWN", "NOT_PLACED"}
            for number in range(WAITING):
                calls.ask(place_frame(f"w{number}", own.account, marketable(own)))
            waiting = [f"w{number}" for number in range(WAITING)]
            # The probe of a broker that still fails is one order in doubt, and no other leaves.
            assert eventually(lambda: {states(own)[key] for key in waiting} - UNSENT)
            own.lane.lift_faults()
            assert eventually(
                lambda: {states(own)[key] for key in waiting} <= {"FILLED", "NOT_PLACED"},
                within_s=60,
            ), states(own)
            assert breaker(daemon) == 0.0
        assert eventually(lambda: not verdict.unsettled(own), within_s=60)
        assert verdict.never_twice(own) == []
        said = told(notices)
    changes = [(each["before"], each["after"]) for each in said if each["kind"] == "breaker"]
    assert (changes[0], changes[-1]) == (("closed", "open"), ("half-open", "closed"))
    failed = changes.count(("half-open", "open"))
    ends = [states(own)[key] for key in waiting]
    assert 1 <= failed == ends.count("NOT_PLACED") < WAITING
    assert sum(verdict.broker_side(own).places_by_tag.values()) == 1 + WAITING


def told(notices: Any) -> list[dict[str, Any]]:
    found = []
    while (message := notices.get_message(timeout=0.5)) is not None:
        if message["type"] == "message":
            found.append(orjson.loads(message["data"]))
    return found


def test_an_order_in_doubt_whose_day_is_over_is_a_persons_with_an_alarm_and_never_sent(
    own: World,
) -> None:
    task_id = asyncio.run(sent_yesterday(own))

    daemon = own.start()
    assert daemon.opens(own.account), daemon.log()

    assert eventually(lambda: states(own) == {"yesterday": "MANUAL"}), states(own)
    (task,) = own.tasks()
    assert (task["reason_code"], task["task_id"]) == ("DAY_OVER", task_id)
    assert eventually(lambda: "order_needs_a_person" in daemon.log()), daemon.log()
    assert verdict.broker_side(own).places_by_tag == {}
    daemon.kill()
    again = own.start()
    assert again.opens(own.account), again.log()
    assert states(own) == {"yesterday": "MANUAL"}
    assert verdict.broker_side(own).places_by_tag == {}


def test_a_person_closes_from_a_shell_what_the_broker_had_yesterday(own: World) -> None:
    asyncio.run(sent_yesterday(own, RESTED))
    daemon = own.start()
    assert daemon.opens(own.account), daemon.log()
    assert eventually(lambda: states(own) == {"yesterday": "MANUAL"}), states(own)
    why = ["--why", "contract note of yesterday"]

    status, said = desk(own, daemon)
    assert (status, "you may    close" in said) == (0, True), said
    status, said = desk(own, daemon, "close", "yesterday", "filled", "--filled", "1", *why)
    assert (status, "INVALID_FIELD: average_price" in said) == (1, True), said
    verb = ["close", "yesterday", "filled", "--filled", "1", "--price", "1400.05", *why]
    (task,) = own.tasks()
    status, said = desk(own, daemon, *verb)
    assert (status, "is FILLED, the broker's order" in said) == (0, True), said
    status, said = desk(own, daemon, "show", str(task["task_id"]))

    assert "night-desk: it ended as FILLED, which was read at the broker" in said
    assert "why: contract note of yesterday" in said
    (task,) = own.tasks()
    assert (task["filled_quantity"], str(task["average_price"])) == (1, "1400.05")
    status, said = desk(own, daemon)
    assert (status, "0 undecided, 0 failed today" in said) == (0, True), said


DOUBTED: Final = TaskUpdate(state=TaskState.UNKNOWN, event="send_ambiguous", outcome="AMBIGUOUS")
RESTED: Final = TaskUpdate(
    state=TaskState.ACKED,
    event="send_acked",
    outcome="ACKED",
    broker_order_id="yesterdays-order",
)


async def sent_yesterday(own: World, answer: TaskUpdate = DOUBTED) -> uuid.UUID:
    """Leave what a daemon leaves that died the day before, over an answer or none."""
    at_ns = SystemClock().now_ns() - SECONDS_PER_DAY * NS_PER_S
    body = {name: str(value) for name, value in marketable(own).items()}
    body |= {"variety": "regular", "validity": "DAY"}
    new = NewTask(
        task_id=uuid.uuid4(),
        kind=TaskKind.PLACE,
        account=Account(own.account),
        principal=PRINCIPAL,
        request_id="yesterday",
        client_order_id="yesterday",
        body=body,
        body_sha256=body_sha256(body),
        deadline_ns=at_ns + 30 * NS_PER_S,
        received_at_ns=at_ns,
    )
    async with PostgresJournal(
        own.database_url, JournalOptions(requires_durable_storage=False)
    ) as journal:
        epoch = await journal.acquire(new.account)
        task = (await journal.admit(new)).task
        ready = TaskUpdate(state=TaskState.READY, event="ready")
        task = await journal.record(task, ready, now_ns=at_ns)
        task = await journal.claim(
            task,
            tag=tag_of("T0", new.task_id, 1),
            writer_epoch=epoch,
            now_ns=at_ns,
            send_not_after_ns=at_ns + 5 * NS_PER_S,
        )
        await journal.record(task, answer, now_ns=at_ns + 7 * NS_PER_S)
    return new.task_id
