"""Rows of the journal's tables as values of the domain, and times both ways.

PostgreSQL keeps microseconds: the ns we give are cut down to the microsecond before them, so a
deadline is never later than it was asked for. Pure.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

import orjson

from ticker_service.domain.halt import Halt, HaltCode
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.domain.order import OrderAttempt, OrderEvent, OrderTask, TaskKind
from ticker_service.domain.order_events import upcast
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.risk import KeptLimits, RiskDenial

if TYPE_CHECKING:
    from collections.abc import Mapping

NS_PER_US: Final = 1_000
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND: Final = dt.timedelta(microseconds=1)

Row = dict[str, Any]


def time_of(at_ns: int) -> dt.datetime:
    """Return ns since the Unix epoch as a time with its zone, cut to the microsecond."""
    return EPOCH + dt.timedelta(microseconds=at_ns // NS_PER_US)


def ns_of(at: dt.datetime) -> int:
    """Return a time as ns since the Unix epoch."""
    return (at - EPOCH) // MICROSECOND * NS_PER_US


def task_of(row: Mapping[str, Any]) -> OrderTask:
    """Return the task of a row of ``order_task``."""
    return OrderTask(
        task_id=row["task_id"],
        kind=TaskKind(row["kind"]),
        account=row["account"],
        principal=row["principal"],
        request_id=row["request_id"],
        client_order_id=row["client_order_id"],
        body=row["body"],
        body_sha256=row["body_sha256"],
        state=TaskState(row["state"]),
        version=row["version"],
        attempt=row["attempt"],
        tag=row["tag"],
        writer_epoch=row["writer_epoch"],
        deadline_ns=ns_of(row["deadline"]),
        send_not_after_ns=_ns_or_none(row["send_not_after"]),
        intent_at_ns=_ns_or_none(row["intent_at"]),
        broker_order_id=row["broker_order_id"],
        broker_status=row["broker_status"],
        filled_quantity=row["filled_quantity"],
        average_price=row["average_price"],
        reason_code=row["reason_code"],
        reason=row["reason"],
        target_task_id=row["target_task_id"],
        created_at_ns=ns_of(row["created_at"]),
        updated_at_ns=ns_of(row["updated_at"]),
        job_id=row["job_id"],
        leg=row["leg"],
        slice=row["slice"],
        facts=row["facts"],
        account_group=row["account_group"],
        origin_task_id=row["origin_task_id"],
        hop=row["hop"],
    )


def attempt_of(row: Mapping[str, Any]) -> OrderAttempt:
    """Return the attempt of a row of ``order_attempt``."""
    return OrderAttempt(
        task_id=row["task_id"],
        attempt=row["attempt"],
        account=row["account"],
        tag=row["tag"],
        writer_epoch=row["writer_epoch"],
        body_sha256=row["body_sha256"],
        intent_at_ns=ns_of(row["intent_at"]),
        send_not_after_ns=ns_of(row["send_not_after"]),
        outcome=row["outcome"],
        http_status=row["http_status"],
        finished_at_ns=_ns_or_none(row["finished_at"]),
    )


def event_of(row: Mapping[str, Any]) -> OrderEvent:
    """Return the event of a row of ``order_event``, in the version written today."""
    version, data = upcast(row["event"], row["event_version"], row["data"])
    return OrderEvent(
        event_id=row["event_id"],
        account=row["account"],
        account_seq=row["account_seq"],
        task_id=row["task_id"],
        version=row["version"],
        event=row["event"],
        event_version=version,
        at_ns=ns_of(row["at"]),
        principal=row["principal"],
        client_order_id=row["client_order_id"],
        state=TaskState(row["state"]),
        data=data,
    )


def event_written(row: Mapping[str, Any], given: Mapping[str, Any], *, at_ns: int) -> OrderEvent:
    """Return the event of a write that has just been committed, as it will be read.

    Args:
        row: The task as the write left it, with the ``account_seq`` of its event.
        given: What the write was given (`adapters.postgres_parameters`).
        at_ns: When it happened, ns since the Unix epoch.
    """
    return OrderEvent(
        event_id=given["event_id"],
        account=row["account"],
        account_seq=row["account_seq"],
        task_id=row["task_id"],
        version=row["version"],
        event=given["event"],
        event_version=int(given["event_version"]),
        at_ns=at_ns,
        principal=row["principal"],
        client_order_id=row["client_order_id"],
        state=TaskState(row["state"]),
        data=orjson.loads(orjson.dumps(given["data"].obj)),
    )


def halt_of(row: Mapping[str, Any]) -> Halt:
    """Return the halt of a row of ``account_halt``."""
    return Halt(
        account=row["account"],
        code=HaltCode(row["code"]),
        reason=row["reason"],
        since_ns=ns_of(row["since"]),
        until_ns=_ns_or_none(row["until"]),
        lifted_at_ns=ns_of(row["at"]) if row["step"] == "lifted" else None,
    )


def limits_of(row: Mapping[str, Any]) -> KeptLimits:
    """Return what limited, of a row of ``risk_limits``."""
    return KeptLimits(version=row["version"], said=row["said"], at_ns=ns_of(row["at"]))


def denial_of(row: Mapping[str, Any]) -> RiskDenial:
    """Return the denial of a row of ``risk_denial``."""
    return RiskDenial(account=row["account"], at_ns=ns_of(row["at"]), **row["told"])


def kill_switch_of(row: Mapping[str, Any]) -> KillSwitch:
    """Return the switch of a row of ``kill_switch``."""
    return KillSwitch(
        switch_id=row["switch_id"],
        scope=KillScope.of(row["scope"]),
        level=KillLevel(row["level"]),
        why=row["why"],
        by_whom=row["by_whom"],
        since_ns=ns_of(row["since"]),
        released_ns=_ns_or_none(row["released"]) or 0,
        released_by=row["released_by"] or "",
    )


def _ns_or_none(at: dt.datetime | None) -> int | None:
    return None if at is None else ns_of(at)
