"""Make an order's present state from its events alone, and find where the tables say otherwise.

The events are the truth, the tables of tasks and attempts are made from them. A replay takes a
task's events in order of their version; an event that cannot follow those before it stops the
replay of that task with a fault and is never skipped (I9). Pure.
"""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ticker_service.constants import NS_PER_US
from ticker_service.domain import order_events
from ticker_service.domain.journal_audit import FaultCode, JournalFault
from ticker_service.domain.order import JOBS, OrderAttempt, OrderTask, TaskKind
from ticker_service.domain.order_state import AT_BROKER, TRANSITIONS, TaskState, first_state
from ticker_service.errors import TickerServiceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ticker_service.domain.order import Account, OrderEvent

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STEP_TEXTS: Final = ("broker_order_id", "broker_status", "reason_code", "reason")


class EventRefused(TickerServiceError):  # noqa: N818 - says what happened
    """An event cannot follow those before it."""

    def __init__(self, code: FaultCode, field: str, *, told: object, found: object) -> None:
        super().__init__(f"{code}: {field}: must be {told}, is {found}")
        self.code = code
        self.field = field
        self.told = str(told)
        self.found = str(found)


class Replay:
    """Takes one task's events, the oldest first, and holds what they make of it.

    Memory is the newest state and the attempts, however many events there are.
    """

    def __init__(self) -> None:
        self.task: OrderTask | None = None
        self.attempts: list[OrderAttempt] = []
        self.untold: frozenset[str] = frozenset()
        """Fields that the oldest versions of events did not tell; they are not compared."""
        self._seq: dict[Account, int] = {}

    def take(self, event: OrderEvent) -> OrderTask:
        """Take the next event and return what the task is with it.

        Raises:
            EventRefused: It cannot be next.
        """
        if event.event_version > order_events.version_of(event.event):
            known = order_events.version_of(event.event)
            raise EventRefused(
                FaultCode.TOO_NEW,
                "event_version",
                told=f"{known} or less",
                found=event.event_version,
            )
        try:
            moved = self._received(event) if self.task is None else self._moved(self.task, event)
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            why = f"{type(error).__name__}: {error}"
            raise EventRefused(FaultCode.UNREADABLE, "data", told="readable", found=why) from error
        seq_before = self._seq.get(event.account, 0)
        if event.account_seq <= seq_before:
            raise EventRefused(
                FaultCode.VERSION_GAP,
                "account_seq",
                told=f"more than {seq_before}",
                found=event.account_seq,
            )
        self._seq[event.account] = event.account_seq
        self.task = moved
        return moved

    def _received(self, event: OrderEvent) -> OrderTask:
        data: Mapping[str, Any] = event.data
        kind = TaskKind(data["kind"])
        is_orphan = event.event == order_events.ORPHAN_ADOPTED
        begins: tuple[object, ...] = (order_events.RECEIVED, 1, first_state(kind))
        if is_orphan and kind is TaskKind.PLACE and event.state in AT_BROKER:
            begins = (order_events.ORPHAN_ADOPTED, 1, event.state)
        found = (event.event, event.version, event.state)
        if found != begins:
            raise EventRefused(FaultCode.BEGINNING, "event", told=begins, found=found)
        _demand(event, version=1, client_order_id=event.client_order_id)
        target, job = data.get("target_task_id"), data.get("job_id")
        origin = data.get("origin_task_id")
        digest, deadline_us = data["body_sha256"], data["deadline_us"]
        if digest is None:
            self.untold |= {"body_sha256"}
        if deadline_us is None:
            self.untold |= {"deadline_ns"}
        made = OrderTask(
            task_id=event.task_id,
            kind=kind,
            account=event.account,
            principal=event.principal,
            request_id=str(data["request_id"]),
            client_order_id=event.client_order_id,
            body=dict(data["body"]),
            body_sha256=b"" if digest is None else bytes.fromhex(digest),
            state=event.state,
            version=1,
            attempt=0,
            tag=None,
            writer_epoch=None,
            deadline_ns=0 if deadline_us is None else int(deadline_us) * NS_PER_US,
            send_not_after_ns=None,
            intent_at_ns=None,
            broker_order_id=None,
            broker_status=None,
            filled_quantity=0,
            average_price=None,
            reason_code=None,
            reason=None,
            target_task_id=None if target is None else UUID(target),
            created_at_ns=event.at_ns,
            updated_at_ns=event.at_ns,
            job_id=None if job is None else UUID(job),
            leg=data.get("leg"),
            slice=data.get("slice"),
            facts=data.get("facts"),
            account_group=data.get("account_group"),
            origin_task_id=None if origin is None else UUID(origin),
            hop=int(data.get("hop", 0)),
        )
        return self._adopted(made, event) if is_orphan else made

    def _adopted(self, task: OrderTask, event: OrderEvent) -> OrderTask:
        """Return an order that began at the broker, with the one send that must have been."""
        data: Mapping[str, Any] = event.data
        price = data.get("average_price")
        sent = OrderAttempt(
            task_id=task.task_id,
            attempt=1,
            account=task.account,
            tag=str(data["tag"]),
            writer_epoch=int(data["writer_epoch"]),
            body_sha256=task.body_sha256,
            intent_at_ns=int(data["intent_at_us"]) * NS_PER_US,
            send_not_after_ns=int(data["send_not_after_us"]) * NS_PER_US,
            outcome=str(data["outcome"]),
            finished_at_ns=event.at_ns,
        )
        self.attempts.append(sent)
        return replace(
            task,
            attempt=1,
            tag=sent.tag,
            writer_epoch=sent.writer_epoch,
            intent_at_ns=sent.intent_at_ns,
            send_not_after_ns=sent.send_not_after_ns,
            broker_order_id=str(data["broker_order_id"]),
            broker_status=data.get("broker_status"),
            filled_quantity=int(data["filled_quantity"]),
            average_price=None if price is None else Decimal(price),
        )

    def _moved(self, task: OrderTask, event: OrderEvent) -> OrderTask:
        if event.version != task.version + 1:
            raise EventRefused(
                FaultCode.VERSION_GAP, "version", told=task.version + 1, found=event.version
            )
        _demand(
            event,
            version=event.version,
            kind=task.kind.value,
            principal=task.principal,
            client_order_id=task.client_order_id,
        )
        is_intent = event.event == order_events.INTENT_RECORDED
        if event.state not in TRANSITIONS[task.state] or is_intent != (
            event.state is TaskState.SENDING
        ):
            told = f"one that may follow {task.state}"
            raise EventRefused(
                FaultCode.NO_TRANSITION, "state", told=told, found=f"{event.event} {event.state}"
            )
        if event.account != task.account:
            # What goes on on another account is another task (I8).
            raise EventRefused(
                FaultCode.NO_TRANSITION, "account", told=task.account, found=event.account
            )
        moved = replace(
            task,
            account=event.account,
            state=event.state,
            version=event.version,
            updated_at_ns=event.at_ns,
        )
        return self._intended(moved, event) if is_intent else self._stepped(moved, event)

    def _intended(self, task: OrderTask, event: OrderEvent) -> OrderTask:
        data: Mapping[str, Any] = event.data
        attempt, tag, epoch = int(data["attempt"]), str(data["tag"]), data["writer_epoch"]
        until_us = data["send_not_after_us"]
        if attempt != task.attempt + 1:
            raise EventRefused(
                FaultCode.NO_TRANSITION, "attempt", told=task.attempt + 1, found=attempt
            )
        if tag in {earlier.tag for earlier in self.attempts}:
            raise EventRefused(FaultCode.TAG_TWICE, "tag", told="a new one", found=tag)
        if epoch is None:
            self.untold |= {"writer_epoch"}
        if until_us is None:
            self.untold |= {"send_not_after_ns"}
        sent = OrderAttempt(
            task_id=task.task_id,
            attempt=attempt,
            account=task.account,
            tag=tag,
            writer_epoch=None if epoch is None else int(epoch),
            body_sha256=task.body_sha256,
            intent_at_ns=event.at_ns,
            send_not_after_ns=None if until_us is None else int(until_us) * NS_PER_US,
        )
        self.attempts.append(sent)
        return replace(
            task,
            attempt=attempt,
            tag=tag,
            writer_epoch=sent.writer_epoch,
            intent_at_ns=sent.intent_at_ns,
            send_not_after_ns=sent.send_not_after_ns,
        )

    def _stepped(self, task: OrderTask, event: OrderEvent) -> OrderTask:
        data: Mapping[str, Any] = event.data
        if task.state in AT_BROKER and not task.attempt:
            raise EventRefused(
                FaultCode.NO_TRANSITION, "state", told="sent before", found=f"unsent {task.state}"
            )
        told: dict[str, Any] = {name: str(data[name]) for name in _STEP_TEXTS if name in data}
        if "filled_quantity" in data:
            told["filled_quantity"] = int(data["filled_quantity"])
            if told["filled_quantity"] < task.filled_quantity:
                raise EventRefused(
                    FaultCode.FILLS_FELL,
                    "filled_quantity",
                    told=f"{task.filled_quantity} or more",
                    found=told["filled_quantity"],
                )
        if "average_price" in data:
            told["average_price"] = Decimal(data["average_price"])
        if "facts" in data and task.kind in JOBS:
            told["facts"] = dict(data["facts"])
        if "outcome" in data and self.attempts and self.attempts[-1].outcome is None:
            status = data.get("http_status")
            self.attempts[-1] = replace(
                self.attempts[-1],
                outcome=str(data["outcome"]),
                http_status=None if status is None else int(status),
                finished_at_ns=event.at_ns,
            )
        return replace(task, **told)


def _demand(event: OrderEvent, **must_be: object) -> None:
    """Hold what an event says twice to one answer."""
    said = {
        "version": event.data["version"],
        "kind": event.data["kind"],
        "principal": event.principal,
        "client_order_id": event.client_order_id,
    }
    if event.data["state"] != event.state.value:
        raise EventRefused(
            FaultCode.NOT_ITS_OWN, "state", told=event.state, found=event.data["state"]
        )
    for name, value in must_be.items():
        if said[name] != value:
            raise EventRefused(FaultCode.NOT_ITS_OWN, name, told=value, found=said[name])


def replay(events: Iterable[OrderEvent]) -> Replay:
    """Return what a task's events make of it.

    Args:
        events: All of one task, in order of their version.

    Raises:
        EventRefused: One of them cannot follow those before it.
    """
    replayed = Replay()
    for event in events:
        replayed.take(event)
    return replayed


def differences(
    replayed: Replay, row: OrderTask | None, attempts: Sequence[OrderAttempt]
) -> list[JournalFault]:
    """Return where the rows of a task are not what its events make of it.

    Args:
        replayed: The events, all taken.
        row: The task's row, None if it has none.
        attempts: The rows of its attempts.
    """
    task = replayed.task
    if task is None:
        return _unexplained(row, attempts)
    untold = replayed.untold
    found: list[JournalFault] = []
    name = f"task {task.client_order_id} version {task.version}"
    if row is None:
        found.append(_fault(FaultCode.TASK_MISSING, task, name))
    else:
        fault = _fault(FaultCode.TASK_DIFFERS, task, name)
        found += _fields_apart(task, row, fault=fault, untold=untold)
    rows = {each.attempt: each for each in attempts}
    for made in replayed.attempts:
        stored = rows.pop(made.attempt, None)
        name = f"attempt {made.attempt} of {task.client_order_id}"
        if stored is None:
            found.append(_fault(FaultCode.ATTEMPT_MISSING, task, name))
        else:
            fault = _fault(FaultCode.ATTEMPT_DIFFERS, task, name)
            found += _fields_apart(made, stored, fault=fault, untold=untold)
    for number in rows:
        name = f"attempt {number} of {task.client_order_id}"
        found.append(_fault(FaultCode.ATTEMPT_UNEXPLAINED, task, name))
    return found


def _unexplained(row: OrderTask | None, attempts: Sequence[OrderAttempt]) -> list[JournalFault]:
    found = []
    if row is not None:
        name = f"task {row.client_order_id} version {row.version}"
        found.append(_fault(FaultCode.TASK_UNEXPLAINED, row, name))
    for each in attempts:
        name = f"attempt {each.attempt} with tag {each.tag}"
        found.append(_fault(FaultCode.ATTEMPT_UNEXPLAINED, each, name))
    return found


def _fault(code: FaultCode, of: OrderTask | OrderAttempt, where: str) -> JournalFault:
    return JournalFault(code=code, account=of.account, where=where, task_id=of.task_id)


def _fields_apart(
    made: OrderTask | OrderAttempt,
    row: OrderTask | OrderAttempt,
    *,
    fault: JournalFault,
    untold: frozenset[str],
) -> list[JournalFault]:
    """Return the fault once for each field in which a row is not what was made of the events."""
    return [
        replace(
            fault,
            field=field.name.removesuffix("_ns"),
            told=shown(field.name, told),
            found=shown(field.name, found),
        )
        for field in dataclasses.fields(made)
        if field.name not in untold
        and (told := _stored(field.name, getattr(made, field.name)))
        != (found := _stored(field.name, getattr(row, field.name)))
    ]


def _stored(name: str, value: Any) -> Any:  # noqa: ANN401 - any field of a row
    """Return a value as the database keeps it: times to the microsecond."""
    if name.endswith("_ns") and value is not None:
        return value // NS_PER_US
    return value


def shown(name: str, value: Any) -> str:  # noqa: ANN401 - any field of a row
    """Return a stored value for people."""
    if value is None:
        return "nothing"
    if name.endswith("_ns"):
        return (_EPOCH + timedelta(microseconds=value)).isoformat(timespec="microseconds")
    if isinstance(value, bytes):
        return value.hex()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
