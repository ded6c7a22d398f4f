"""What an event of the journal says, in which version, and how older versions are read.

An event tells everything its step changed, so that the tables can be made from the events alone
(`order_replay`). Its data is also what consumers get, so its shape is a promise: a change of shape
is a new version of that event with an upcaster from the one before. Stored events never change.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_US
from ticker_service.domain.order_state import first_state
from ticker_service.errors import InvariantViolatedError

if TYPE_CHECKING:
    from ticker_service.domain.order import NewTask, OrderTask, TaskUpdate

RECEIVED: Final = "received"
INTENT_RECORDED: Final = "intent_recorded"
ORPHAN_ADOPTED: Final = "orphan_adopted"
ADOPTED: Final = "ADOPTED"
"""The outcome of a send that the journal knows of by its order alone."""
# What our JSON writer takes; a number beyond it is kept as its digits.
INTEGER_MAX: Final = 2**63 - 1

Data = dict[str, object]
Upcaster = Callable[[Mapping[str, object]], Data]

EVENT_VERSIONS: Final[Mapping[str, int]] = {RECEIVED: 2, INTENT_RECORDED: 2}
"""The version in which an event is written today, where it is not 1."""


def _received_2(data: Mapping[str, object]) -> Data:
    """Add what version 1 did not tell: until when it may be sent, and the digest of its body."""
    return {**data, "deadline_us": None, "body_sha256": None}


def _intent_recorded_2(data: Mapping[str, object]) -> Data:
    """Add what version 1 did not tell: under which epoch, and until when bytes may leave."""
    return {**data, "writer_epoch": None, "send_not_after_us": None}


UPCASTERS: Final[Mapping[tuple[str, int], Upcaster]] = {
    (RECEIVED, 1): _received_2,
    (INTENT_RECORDED, 1): _intent_recorded_2,
}
"""``(event, version)`` to the function that makes its data that of the next version.

A fact that an older version did not tell is None, never a guess.
"""


def version_of(event: str) -> int:
    """Return the version in which an event is written today."""
    return EVENT_VERSIONS.get(event, 1)


def upcast(
    event: str,
    version: int,
    data: Mapping[str, object],
    *,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> tuple[int, Mapping[str, object]]:
    """Return the version and data of a stored event as they are written today.

    An event that a newer program wrote comes back as it is: its version says so.
    """
    while (event, version) in upcasters:
        data = upcasters[event, version](data)
        version += 1
    if version < version_of(event):
        raise InvariantViolatedError(
            f"Invariant: no upcaster event={event} version={version} today={version_of(event)}"
        )
    return version, data


def received(new: NewTask) -> Data:
    """Return the data of a task's first event: all that was asked."""
    data: Data = {
        "state": first_state(new.kind).value,
        "version": 1,
        "kind": new.kind.value,
        "client_order_id": new.client_order_id,
        "request_id": new.request_id,
        "body": dict(new.body),
        "deadline_us": new.deadline_ns // NS_PER_US,
        "body_sha256": new.body_sha256.hex(),
    }
    if new.target_task_id is not None:
        data["target_task_id"] = str(new.target_task_id)
    if new.job_id is not None:
        data |= {"job_id": str(new.job_id), "leg": new.leg, "slice": new.slice}
    if new.account_group is not None:
        data["account_group"] = new.account_group
    if new.origin_task_id is not None:
        data |= {"origin_task_id": str(new.origin_task_id), "hop": new.hop}
    if new.facts is not None:
        data["facts"] = storable(dict(new.facts))
    if new.risk is not None:
        data["risk"] = storable(dict(new.risk))
    return data


def orphan_adopted(
    new: NewTask, update: TaskUpdate, *, tag: str, writer_epoch: int, sent_at_ns: int
) -> Data:
    """Return the data of the first event of an order that the journal had not known of."""
    sent_at_us = sent_at_ns // NS_PER_US
    told = {
        "state": update.state.value,
        "attempt": 1,
        "tag": tag,
        "writer_epoch": writer_epoch,
        "intent_at_us": sent_at_us,
        "send_not_after_us": sent_at_us,
        "outcome": ADOPTED,
        "broker_order_id": update.broker_order_id,
        "broker_status": update.broker_status,
        "filled_quantity": update.filled_quantity or 0,
        "average_price": update.average_price,
    }
    return received(new) | {
        name: storable(value) for name, value in told.items() if value is not None
    }


def intent_recorded(
    task: OrderTask, *, tag: str, writer_epoch: int, send_not_after_ns: int
) -> Data:
    """Return the data of the event that commits the intent to send."""
    return {
        "state": "SENDING",
        "version": task.version + 1,
        "kind": task.kind.value,
        "attempt": task.attempt + 1,
        "tag": tag,
        "writer_epoch": writer_epoch,
        "send_not_after_us": send_not_after_ns // NS_PER_US,
    }


def step(task: OrderTask, update: TaskUpdate) -> Data:
    """Return the data of a step: the new state and what the step set."""
    told: Data = {
        "state": update.state.value,
        "version": task.version + 1,
        "kind": task.kind.value,
        "tag": task.tag,
        "broker_order_id": update.broker_order_id,
        "broker_status": update.broker_status,
        "filled_quantity": update.filled_quantity,
        "average_price": update.average_price,
        "reason_code": update.reason_code,
        "reason": update.reason,
        "outcome": update.outcome,
        "http_status": update.http_status,
        "facts": dict(update.facts) if update.facts else None,
    }
    return {name: storable(value) for name, value in told.items() if value is not None}


def text(value: str | None) -> str | None:
    """Return what PostgreSQL can hold of a text of the broker's.

    NUL and unpaired surrogates come in through JSON escapes; a fact about an order is not lost
    because its reason has one.
    """
    if value is None:
        return None
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def storable(value: object) -> object:  # noqa: PLR0911 - one branch for each type of JSON
    """Return a value as JSON has it: decimals as their digits, no NaN, texts that can be held."""
    match value:
        case None | bool():
            return value
        case int():
            return value if -INTEGER_MAX <= value <= INTEGER_MAX else str(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {text(str(name)): storable(part) for name, part in value.items()}
        case list() | tuple():
            return [storable(part) for part in value]
        case Decimal():
            return f"{value:f}"
        case _:
            return text(str(value))
