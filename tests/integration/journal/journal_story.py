"""Some orders' whole lives, the same every time, and all that a database then holds of them.

``tests/data/journal/vN.json`` is this story as the program told it whose events were of version N,
taken from its own tables. Those files are never edited: what is in them is in somebody's journal.
"""

from __future__ import annotations

import datetime as dt
import itertools
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import psycopg
from journal_values import ACCOUNT, BODY, NOON_NS, OPTIONS, SECOND_NS, new_task, step
from psycopg.rows import dict_row

from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.domain.order import Account, TaskKind, successor_of
from ticker_service.domain.order_state import TaskState as S

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderTask, TaskUpdate

OTHER: Final = Account("AB9876")
LEFT: Final = Account("PR0001")
STANDBY: Final = Account("PR0002")
NIGHT: Final = Account("NI0001")
TABLES: Final = {
    "order_event": "account, account_seq",
    "order_task": "task_id",
    "order_attempt": "task_id, attempt",
    "account_sequence": "account",
    "account_writer": "account",
}
ORDER_ID: Final = "260101000000001"
_NOT_IN_TAGS: Final = str.maketrans("", "", "-~")


async def tell(url: str) -> None:
    """Journal the story in an empty migrated database."""
    ids = (uuid.UUID(int=number) for number in itertools.count(1_000))
    async with PostgresJournal(url, OPTIONS, new_id=lambda: next(ids)) as journal:
        await _Teller(journal).tell()


class _Teller:
    def __init__(self, journal: PostgresJournal) -> None:
        self._journal = journal
        self._task_ids = (uuid.UUID(int=number) for number in itertools.count(1))
        self._now_ns = NOON_NS + 123_456_789
        self._epoch = 0

    async def tell(self) -> None:
        self._epoch = await self._journal.acquire(ACCOUNT)
        filled = await self._filled_in_parts()
        await self._cancelled(filled)
        await self._throttled_then_unknown_then_not_placed()
        await self._refused_twice()
        await self._basket_that_stopped()
        await self._never_sent()
        await self._on_another_account()
        await self._failed_over()
        await self._decided_by_a_person()

    async def _filled_in_parts(self) -> OrderTask:
        order = await self._sent("filled")
        order = await self._step(
            order, step(S.ACKED, event="send_acked", broker_order_id=ORDER_ID, **_yes())
        )
        order = await self._step(order, _row(S.WORKING, "OPEN", 0))
        change = await self._sent(
            "change-1",
            kind=TaskKind.MODIFY,
            client_order_id="filled",
            body={"price": "101.50"},
            target_task_id=order.task_id,
        )
        await self._step(change, step(S.ACKED, event="send_acked", **_yes()))
        order = await self._step(
            order, _row(S.PARTIAL, "OPEN", 25, average_price=Decimal("101.500"))
        )
        return await self._step(
            order, _row(S.FILLED, "COMPLETE", 75, average_price=Decimal("101.3333333333333333"))
        )

    async def _cancelled(self, order: OrderTask) -> None:
        cancel = await self._ready(
            "cancel-1",
            kind=TaskKind.CANCEL,
            client_order_id="filled",
            body={},
            target_task_id=order.task_id,
        )
        local = {"reason_code": "ORDER_ENDED", "reason": "the order is FILLED"}
        await self._step(cancel, step(S.REJECTED_LOCAL, event="refused", **local))

    async def _throttled_then_unknown_then_not_placed(self) -> None:
        order = await self._sent("lost")
        again = {"outcome": "THROTTLED", "http_status": 429, "facts": {"retry_after_s": 1.5}}
        order = await self._step(order, step(S.READY, event="send_put_off", **again))
        order = await self._claim(order, "T0000000000LOST00002")
        doubt = {"outcome": "AMBIGUOUS", "reason_code": "TIMEOUT", "reason": "no\0answer \ud800"}
        order = await self._step(order, step(S.UNKNOWN, event="send_in_doubt", **doubt))
        gone = step(S.NOT_PLACED, event="settled", reason_code="ABSENT", facts={"books": 3})
        await self._step(order, gone)

    async def _refused_twice(self) -> None:
        order = await self._sent("refused")
        no = {"outcome": "REJECTED", "http_status": 400, "reason_code": "BROKER_REJECTED"}
        order = await self._step(
            order, step(S.REJECTED, event="send_refused", reason="Insufficient funds", **no)
        )
        late = _row(S.CANCELLED, "CANCELLED", 5, average_price=Decimal("-0.05"), reason="")
        await self._step(order, late)

    async def _basket_that_stopped(self) -> None:
        legs = {f"legs.{leg}.{name}": value for leg in (1, 2) for name, value in BODY.items()}
        facts = {"slices": {"1": [75], "2": [50, 25]}}
        job = await self._admit("pair", kind=TaskKind.BASKET, body=legs, facts=facts)
        link = {"job_id": job.task_id, "leg": 1, "slice": 1}
        leg = await self._sent("pair~1", **link)
        leg = await self._step(leg, step(S.ACKED, broker_order_id="260101000000007", **_yes()))
        told = {"reason_code": "LEG_FAILED", "reason": "leg 2", "facts": facts | {"failed": 2}}
        job = await self._step(job, step(S.STOPPING, event="job_stops", **told))
        await self._admit(
            "pair~1~cancel-1",
            kind=TaskKind.CANCEL,
            client_order_id="pair~1",
            body={},
            target_task_id=leg.task_id,
            **link,
        )
        await self._step(leg, step(S.CANCELLED, event="broker_update"))
        await self._step(job, step(S.DONE, event="job_done"))

    async def _never_sent(self) -> None:
        order = await self._ready("expired")
        await self._step(order, step(S.EXPIRED, event="expired", reason_code="DEADLINE"))
        await self._admit("waiting")

    async def _on_another_account(self) -> None:
        self._epoch = await self._journal.acquire(OTHER)
        self._epoch = await self._journal.acquire(OTHER)
        order = await self._ready("other", account=OTHER)
        order = await self._claim(order, "T000000000OTHER00001")
        await self._step(order, step(S.UNKNOWN, event="found_sending", reason_code="RESTART"))

    async def _failed_over(self) -> None:
        for account in (STANDBY, LEFT):
            self._epoch = await self._journal.acquire(account)
        chosen = {"account_group": "PAIR", "facts": {"policy": "first_able"}}
        order = await self._sent("moved", account=LEFT, **chosen)
        left = {"outcome": "NOT_SENT", "reason_code": "NOTHING_LEFT", "reason": "refused"}
        order = await self._step(order, step(S.READY, event="send_not_sent", **left))
        self._now_ns += 250_250
        goes_on = successor_of(
            order,
            task_id=next(self._task_ids),
            account=STANDBY,
            target_task_id=None,
            facts={"from_account": LEFT},
            now_ns=self._now_ns,
        )
        over = step(S.FAILED_OVER, event="failed_over", facts={"successor": str(goes_on.task_id)})
        order = await self._journal.hand_over(order, over, goes_on, now_ns=self._now_ns)
        await self._step(order, step(S.READY, event="checked"))

    async def _decided_by_a_person(self) -> None:
        self._epoch = await self._journal.acquire(NIGHT)
        word = {"by_whom": "night-desk", "why": "looked at Kite"}
        self._now_ns += 1_001_001
        lost = new_task(
            task_id=next(self._task_ids),
            account=NIGHT,
            request_id="orphan:NI0001:260101000000002",
            client_order_id="orphan",
            received_at_ns=self._now_ns,
            deadline_ns=self._now_ns + 30 * SECOND_NS,
            facts={**word, "order_id": "260101000000002"},
        )
        row = {"broker_order_id": "260101000000002", "broker_status": "OPEN"}
        price = {"filled_quantity": 5, "average_price": Decimal("101.25")}
        found = step(S.PARTIAL, event="orphan_adopted", **row, **price)
        sent_at_ns = self._now_ns - 60 * SECOND_NS
        adopted = await self._journal.adopt_orphan(
            lost, found, tag="T000000000000ORPHAN1", sent_at_ns=sent_at_ns
        )
        over = {"reason_code": "DAY_OVER", "reason": "its trading day is over"}
        orphan = await self._step(adopted.task, step(S.MANUAL, event="needs_a_person", **over))
        ended = {"filled_quantity": 50, "average_price": Decimal("101.75")}
        closed = {"reason_code": "CLOSED_BY_PERSON", "facts": {**word, "was": "MANUAL"}}
        await self._step(orphan, step(S.CANCELLED, event="closed_by_person", **ended, **closed))

    async def _admit(self, key: str, **changed: Any) -> OrderTask:
        self._now_ns += 1_001_001
        values: dict[str, Any] = {
            "task_id": next(self._task_ids),
            "request_id": key,
            "client_order_id": key,
            "body": BODY,
            "received_at_ns": self._now_ns,
            "deadline_ns": self._now_ns + 30 * SECOND_NS,
        }
        return (await self._journal.admit(new_task(**values | changed))).task

    async def _ready(self, key: str, **changed: Any) -> OrderTask:
        return await self._step(await self._admit(key, **changed), step(S.READY, event="checked"))

    async def _sent(self, key: str, **changed: Any) -> OrderTask:
        order = await self._ready(key, **changed)
        tag = f"T{key.upper().translate(_NOT_IN_TAGS).rjust(14, '0')}00001"
        return await self._claim(order, tag)

    async def _claim(self, order: OrderTask, tag: str) -> OrderTask:
        self._now_ns += 500_500
        return await self._journal.claim(
            order,
            tag=tag,
            writer_epoch=self._epoch,
            now_ns=self._now_ns,
            send_not_after_ns=self._now_ns + 2 * SECOND_NS,
        )

    async def _step(self, order: OrderTask, update: TaskUpdate) -> OrderTask:
        self._now_ns += 250_250
        return await self._journal.record(order, update, now_ns=self._now_ns)


def _yes() -> dict[str, Any]:
    return {"outcome": "ACKED", "http_status": 200}


def _row(state: S, status: str, filled: int, **changed: Any) -> TaskUpdate:
    told = {"event": "broker_update", "broker_order_id": ORDER_ID, "broker_status": status}
    return step(state, **told | {"filled_quantity": filled} | changed)


def tables(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return what the database holds, in a form that JSON keeps."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return {
            table: [
                {name: _plain(value) for name, value in row.items() if name != "acquired_at"}
                for row in connection.execute(f"SELECT * FROM {table} ORDER BY {order}")  # noqa: S608
            ]
            for table, order in TABLES.items()
        }


def _plain(value: Any) -> Any:
    match value:
        case dt.datetime():
            return value.astimezone(dt.UTC).isoformat()
        case bytes():
            return value.hex()
        case Decimal() | uuid.UUID():
            return str(value)
        case _:
            return value
