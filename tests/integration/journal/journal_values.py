"""Instructions, steps and options that the journal's tests speak of."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions, PoolOptions
from ticker_service.domain.order import Account, NewTask, TaskKind, TaskUpdate, body_sha256
from ticker_service.domain.order_state import TaskState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ticker_service.domain.order import OrderTask
    from ticker_service.ports import OrderJournal

ACCOUNT: Final = Account("ZX1234")
SECOND_NS: Final = 1_000_000_000
NOON_NS: Final = 1_767_250_800 * SECOND_NS
BODY: Final = {"exchange": "NFO", "tradingsymbol": "NIFTY26JAN25000CE", "quantity": "75"}
# The shared server does not wait for its disk, and a loaded machine may be slow.
_PATIENT: Final = PoolOptions(wait_s=20.0, statement_ms=20_000, lock_ms=10_000)
_PATIENT_READS: Final = replace(_PATIENT, synchronous_commit="off")
OPTIONS: Final = JournalOptions(
    requires_durable_storage=False, operation_s=60.0, orders=_PATIENT, queries=_PATIENT_READS
)
_numbers = itertools.count(1)


def journal_at(url: str, options: JournalOptions = OPTIONS) -> PostgresJournal:
    return PostgresJournal(url, options)


def new_task(**changed: Any) -> NewTask:
    key = f"order-{next(_numbers)}"
    values: dict[str, Any] = {
        "task_id": uuid.uuid4(),
        "kind": TaskKind.PLACE,
        "account": ACCOUNT,
        "principal": "desk",
        "request_id": key,
        "client_order_id": key,
        "body": BODY,
        "deadline_ns": NOON_NS + 10 * SECOND_NS,
        "received_at_ns": NOON_NS,
    }
    values |= changed
    values.setdefault("body_sha256", body_sha256(values["body"]))
    return NewTask(**values)


def tag_of(number: int) -> str:
    return f"T{number:019d}"


def step(state: TaskState, **changed: Any) -> TaskUpdate:
    return TaskUpdate(state=state, event=changed.pop("event", "step"), **changed)


async def ready(journal: OrderJournal, **changed: Any) -> OrderTask:
    admitted = await journal.admit(new_task(**changed))
    return await journal.record(admitted.task, step(TaskState.READY), now_ns=NOON_NS)


async def claim(journal: OrderJournal, task: OrderTask, epoch: int, *, tag: str = "") -> OrderTask:
    return await journal.claim(
        task,
        tag=tag or tag_of(next(_numbers)),
        writer_epoch=epoch,
        now_ns=NOON_NS + SECOND_NS,
        send_not_after_ns=NOON_NS + 2 * SECOND_NS,
    )


async def sending(journal: OrderJournal, epoch: int, **changed: Any) -> OrderTask:
    return await claim(journal, await ready(journal, **changed), epoch)


async def all_of(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Run calls at the same time; an error of one is its result."""

    async def outcome(call: Awaitable[Any]) -> Any:
        try:
            return await call
        except Exception as error:  # noqa: BLE001 - the test looks at what each call got
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(outcome(call)) for call in calls]
    return [task.result() for task in tasks]
