"""What the statements that write instructions are given: values of ours as PostgreSQL takes them.

One function for each of ``admit_task``, ``adopt_orphan``, ``claim_task``, ``record_step`` and
``hand_over_task`` in `adapters.sql`, with every name that the statement asks for. Pure but for the
ids of events, which are passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from ticker_service.adapters.postgres_rows import time_of
from ticker_service.domain import order_events as events
from ticker_service.domain.order import JOBS
from ticker_service.domain.order_state import first_state

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from ticker_service.domain.order import NewTask, OrderTask, TaskUpdate

Parameters = dict[str, object]


def admission(new: NewTask, *, event_id: uuid.UUID) -> Parameters:
    """Return what ``admit_task`` is given."""
    return {
        **_asked(new),
        "kind": new.kind.value,
        "target_task_id": new.target_task_id,
        "state": first_state(new.kind).value,
        "job_id": new.job_id,
        "leg": integer(new.leg),
        "slice": integer(new.slice),
        "account_group": new.account_group,
        **_event(events.RECEIVED, events.received(new), event_id),
    }


def adoption(
    new: NewTask,
    update: TaskUpdate,
    *,
    tag: str,
    writer_epoch: int,
    sent_at_ns: int,
    event_id: uuid.UUID,
) -> Parameters:
    """Return what ``adopt_orphan`` is given."""
    told = events.orphan_adopted(
        new, update, tag=tag, writer_epoch=writer_epoch, sent_at_ns=sent_at_ns
    )
    return {
        **_asked(new),
        "state": update.state.value,
        "tag": tag,
        "writer_epoch": Int8(writer_epoch),
        "sent_at": time_of(sent_at_ns),
        "broker_order_id": events.text(update.broker_order_id),
        "broker_status": events.text(update.broker_status),
        "filled_quantity": Int8(update.filled_quantity or 0),
        "average_price": update.average_price,
        "outcome": events.ADOPTED,
        **_event(events.ORPHAN_ADOPTED, told, event_id),
    }


def intent(
    task: OrderTask,
    *,
    tag: str,
    writer_epoch: int,
    now_ns: int,
    send_not_after_ns: int,
    event_id: uuid.UUID,
) -> Parameters:
    """Return what ``claim_task`` is given."""
    told = events.intent_recorded(
        task, tag=tag, writer_epoch=writer_epoch, send_not_after_ns=send_not_after_ns
    )
    return {
        "task_id": task.task_id,
        "account": task.account,
        "version": Int8(task.version),
        "writer_epoch": Int8(writer_epoch),
        "tag": tag,
        "now": time_of(now_ns),
        "send_not_after": time_of(send_not_after_ns),
        **_event(events.INTENT_RECORDED, told, event_id),
    }


def step(
    task: OrderTask,
    update: TaskUpdate,
    *,
    writer_epoch: int | None,
    now_ns: int,
    event_id: uuid.UUID,
) -> Parameters:
    """Return what ``record_step`` is given; without an epoch any writer may make the step."""
    return {
        **_moved(task, update, writer_epoch=writer_epoch, now_ns=now_ns, event_id=event_id),
        "broker_order_id": events.text(update.broker_order_id),
        "broker_status": events.text(update.broker_status),
        "filled_quantity": integer(update.filled_quantity),
        "average_price": update.average_price,
        "facts": _job_facts(task, update),
    }


def hand_over(
    task: OrderTask,
    update: TaskUpdate,
    successor: NewTask,
    *,
    writer_epochs: tuple[int | None, int | None],
    now_ns: int,
    event_ids: tuple[uuid.UUID, uuid.UUID],
) -> Parameters:
    """Return what ``hand_over_task`` is given; pairs are of the task's and the successor's."""
    goes_on = _event(events.RECEIVED, events.received(successor), event_ids[1])
    return {
        **_moved(task, update, writer_epoch=writer_epochs[0], now_ns=now_ns, event_id=event_ids[0]),
        "to_account": successor.account,
        "to_writer_epoch": integer(writer_epochs[1]),
        "to_task_id": successor.task_id,
        "to_target_task_id": successor.target_task_id,
        "to_facts": _facts(successor),
        **{f"to_{name}": value for name, value in goes_on.items()},
    }


def as_json(data: Mapping[str, object]) -> Jsonb:
    """Return what goes into a column of JSON."""
    return Jsonb(data, dumps=orjson.dumps)


def integer(value: int | None) -> Int8 | None:
    """Return a number of eight bytes, whatever its size: a statement is prepared for one type."""
    return None if value is None else Int8(value)


def _asked(new: NewTask) -> Parameters:
    return {
        "task_id": new.task_id,
        "account": new.account,
        "principal": new.principal,
        "request_id": new.request_id,
        "client_order_id": new.client_order_id,
        "body": as_json(dict(new.body)),
        "body_sha256": new.body_sha256,
        "deadline": time_of(new.deadline_ns),
        "received_at": time_of(new.received_at_ns),
        "facts": _facts(new),
    }


def _moved(
    task: OrderTask,
    update: TaskUpdate,
    *,
    writer_epoch: int | None,
    now_ns: int,
    event_id: uuid.UUID,
) -> Parameters:
    return {
        "task_id": task.task_id,
        "account": task.account,
        "version": Int8(task.version),
        "from_state": task.state.value,
        "state": update.state.value,
        "writer_epoch": integer(writer_epoch),
        "reason_code": events.text(update.reason_code),
        "reason": events.text(update.reason),
        "outcome": update.outcome,
        "http_status": integer(update.http_status),
        "now": time_of(now_ns),
        **_event(update.event, events.step(task, update), event_id),
    }


def _event(event: str, data: events.Data, event_id: uuid.UUID) -> Parameters:
    return {
        "event_id": event_id,
        "event": event,
        "event_version": Int8(events.version_of(event)),
        "data": as_json(data),
    }


def _facts(new: NewTask) -> Jsonb | None:
    return None if new.facts is None else as_json(dict(new.facts))


def _job_facts(task: OrderTask, update: TaskUpdate) -> Jsonb | None:
    """Return what a step says of a job; the facts of an order's step are its event's alone."""
    if update.facts is None or task.kind not in JOBS:
        return None
    return as_json({name: events.storable(value) for name, value in update.facts.items()})
