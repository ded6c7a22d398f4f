"""What may need a person: orders in doubt, those no evidence settled, and those that failed. Pure.

What the journal tells of one such order is read from its events alone, also what people decided of
it: who, when and why are facts of the events that their decisions are.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_events import INTENT_RECORDED
from ticker_service.domain.order_state import FAILED, TaskState
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from decimal import Decimal

    from ticker_service.domain.order import OrderEvent, OrderTask

WHY_CHARACTERS_MAX: Final = 500
ADOPTED: Final = "adopted_by_person"
MARKED_NOT_PLACED: Final = "marked_not_placed"
CLOSED: Final = "closed_by_person"
ENDINGS: Final = frozenset({TaskState.FILLED, TaskState.CANCELLED, TaskState.REJECTED})
"""How an order may have ended at the broker."""
RESEND_KEY: Final = "resend:"
"""Begins the idempotency key of a resend; the id of the old order's first task follows, so that
there is one, on however many accounts it has been."""


class DeskAction(StrEnum):
    """What a person may do about an order."""

    ADOPT = "adopt"
    """Say which of the broker's orders it is."""
    NOT_PLACED = "not-placed"
    """Say that it is not at the broker."""
    RESEND = "resend"
    """Ask for the same once more, as a new order."""
    CLOSE = "close"
    """Say how it ended, of an order whose day is over, as the broker's papers of that day say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who decides, why, and whether also against what the book shows."""

    by_whom: str
    why: str
    is_forced: bool = False

    def facts(self, **more: object) -> dict[str, object]:
        """Return what the journal keeps of it."""
        forced = {"forced": True} if self.is_forced else {}
        return {"by_whom": self.by_whom, "why": self.why, **forced, **more}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an order ended, as a person read it at the broker.

    ``average_price`` is the rupees of one unit over all that was filled, None if nothing was.
    """

    state: TaskState
    filled_quantity: int = 0
    average_price: Decimal | None = None

    def check(self, task: OrderTask, changes: Iterable[OrderTask]) -> None:
        """Refuse what cannot be how this order ended.

        The journal's own facts came from the broker, and no word of a person outweighs one (I5).

        Args:
            task: The order.
            changes: What was asked about it since; one may have set another quantity.

        Raises:
            OrderRefused: With the field at fault and the rule it breaks.
        """
        quantities = _quantities(task, changes)
        asked = " or ".join(map(str, sorted(quantities)))
        filled, price, known = self.filled_quantity, self.average_price, task.filled_quantity
        state = self.state
        shown = task.average_price if filled == known > 0 else None
        rules = (
            (state in ENDINGS, "state", f"must be one of {', '.join(sorted(ENDINGS))}"),
            (filled >= known, "filled_quantity", f"must be {known} or more, as the broker showed"),
            (
                state is not TaskState.FILLED or filled in quantities,
                "filled_quantity",
                f"must be {asked}, all of it, of what is FILLED",
            ),
            (
                state is not TaskState.CANCELLED or filled < max(quantities),
                "filled_quantity",
                f"must be less than {asked} of what is CANCELLED",
            ),
            (
                state is not TaskState.REJECTED or not filled,
                "filled_quantity",
                "must be 0 of what is REJECTED",
            ),
            (
                (price is None) if not filled else (price is not None and price > 0),
                "average_price",
                "must be given, above 0, where something was filled, and nowhere else",
            ),
            (
                shown is None or price == shown,
                "average_price",
                f"must be {shown}, as the broker showed of these {known}",
            ),
        )
        for is_kept, field, rule in rules:
            if not is_kept:
                raise OrderRefused("INVALID_FIELD", rule, field=field, value=getattr(self, field))


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptTold:
    """One physical send as the events tell it; times in ns, the outcome None until it ended."""

    attempt: int
    tag: str
    intent_at_ns: int
    ended_at_ns: int | None = None
    outcome: str | None = None
    http_status: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One decision of a person as the journal has it."""

    at_ns: int
    event: str
    by_whom: str
    why: str
    state: TaskState
    facts: Mapping[str, object]


def resend_key(task: OrderTask) -> str:
    """Return the idempotency key of an order's one resend."""
    return f"{RESEND_KEY}{task.lineage_id}"


def actions_for(task: OrderTask) -> tuple[DeskAction, ...]:
    """Return what a person may do about a task by its state; the book has a word in it, too."""
    if task.kind is not TaskKind.PLACE:
        return ()
    found = []
    if is_adoptable(task):
        found.append(DeskAction.ADOPT)
    if task.state in {TaskState.UNKNOWN, TaskState.MANUAL} and task.broker_order_id is None:
        found.append(DeskAction.NOT_PLACED)
    if is_resendable(task):
        found.append(DeskAction.RESEND)
    if is_closable(task):
        found.append(DeskAction.CLOSE)
    return tuple(found)


def is_adoptable(task: OrderTask) -> bool:
    """Return whether an order of the broker's may be called this task's."""
    states = FAILED | {TaskState.UNKNOWN, TaskState.MANUAL}
    return task.state in states and task.attempt > 0 and task.broker_order_id is None


def is_resendable(task: OrderTask) -> bool:
    """Return whether the same may be asked for once more, as a new order.

    Never from UNKNOWN: it may be at the broker. What was filled in part is no order to repeat, and
    a MANUAL one with an order id was at the broker.
    """
    is_lost = task.state is TaskState.MANUAL and task.broker_order_id is None
    return (task.state in FAILED or is_lost) and task.filled_quantity == 0


def is_closable(task: OrderTask) -> bool:
    """Return whether it was at the broker, and no book will say any more how it ended."""
    return task.state is TaskState.MANUAL and task.broker_order_id is not None


def attempts_told(events: Iterable[OrderEvent]) -> list[AttemptTold]:
    """Return every send that a task's events tell of, oldest first."""
    told: list[AttemptTold] = []
    for event in events:
        data: Mapping[str, Any] = event.data
        if event.event == INTENT_RECORDED:
            told.append(
                AttemptTold(
                    attempt=int(data["attempt"]), tag=str(data["tag"]), intent_at_ns=event.at_ns
                )
            )
        elif "outcome" in data and told and told[-1].outcome is None:
            sent = told[-1]
            told[-1] = AttemptTold(
                attempt=sent.attempt,
                tag=sent.tag,
                intent_at_ns=sent.intent_at_ns,
                ended_at_ns=event.at_ns,
                outcome=str(data["outcome"]),
                http_status=data.get("http_status"),
                message=": ".join(
                    str(data[name]) for name in ("reason_code", "reason") if data.get(name)
                ),
            )
    return told


def audit_lines(events: Sequence[OrderEvent]) -> list[AuditLine]:
    """Return the decisions of people among a task's events, oldest first."""
    found = []
    for event in events:
        facts = event.data.get("facts")
        if isinstance(facts, dict) and "by_whom" in facts:
            found.append(
                AuditLine(
                    at_ns=event.at_ns,
                    event=event.event,
                    by_whom=str(facts["by_whom"]),
                    why=str(facts.get("why", "")),
                    state=event.state,
                    facts=facts,
                )
            )
    return found


def _quantities(task: OrderTask, changes: Iterable[OrderTask]) -> set[int]:
    """Return the quantities that an order may have had when it ended."""
    may_hold = {TaskState.ACKED, TaskState.MANUAL}
    return {int(task.body["quantity"])} | {
        int(change.body["quantity"])
        for change in changes
        if change.kind is TaskKind.MODIFY and change.state in may_hold and "quantity" in change.body
    }
