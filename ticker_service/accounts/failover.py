"""Whether an order may go to another account of its group: one table, first match wins.

Pure. The answer rests on what is certain: an order whose bytes may have left stays where it is,
whatever becomes of the broker (I8), and so does everything that belongs to a position or an order
of an account. A row that does not match is a no. Source: reliability.md §1.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import Product, Side, TaskKind
from ticker_service.domain.order_state import TaskState

if TYPE_CHECKING:
    from collections.abc import Container, Mapping


class Evidence(StrEnum):
    """Why it is certain that nothing of an order is at the broker."""

    NEVER_SENT = "NEVER_SENT"
    NOT_SENT = "NOT_SENT"
    THROTTLED = "THROTTLED"
    REJECTED_AUTH = "REJECTED_AUTH"
    BREAKER_OPEN = "BREAKER_OPEN"
    """Before the intent: nothing was tried."""
    MARGIN = "MARGIN"
    """The broker said no for want of margin. An ended order does not move: another one is made."""
    NONE = "NONE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known of an order when it could be moved.

    ``evidence`` is of its last try; ``reduces`` says that it closes or protects a position of the
    account, ``is_leg`` that another leg of it is on the account, ``moves_on_margin`` what the
    caller allows.
    """

    kind: TaskKind
    state: TaskState
    body: Mapping[str, str]
    evidence: Evidence
    reduces: bool = False
    is_leg: bool = False
    moves_on_margin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is known of the account it could go to."""

    is_of_group: bool
    is_held: bool
    """This daemon has the account's lock."""
    is_open: bool
    """An order would go out there at once: its book was read, it is logged in, not halted nor
    stopped, its breaker closed, its day and its queue have room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The answer, with the row that gave it."""

    moves: bool
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One situation; a condition left out is not asked."""

    moves: bool
    code: str
    states: Container[TaskState] | None = None
    kinds: Container[TaskKind] | None = None
    evidence: Container[Evidence] | None = None
    reduces: bool | None = None
    is_leg: bool | None = None
    sells_holdings: bool | None = None
    moves_on_margin: bool | None = None


_CERTAIN: Final = frozenset(
    {Evidence.NOT_SENT, Evidence.THROTTLED, Evidence.REJECTED_AUTH, Evidence.BREAKER_OPEN}
)

TABLE: Final = (
    Row(moves=False, code="BOUND_TO_ITS_ORDER", kinds=frozenset(TaskKind) - {TaskKind.PLACE}),
    # The first account may hold the position.
    Row(moves=False, code="MAY_BE_THERE", states={TaskState.SENDING, TaskState.UNKNOWN}),
    Row(moves=False, code="BOUND_TO_ITS_POSITION", reduces=True),
    Row(moves=False, code="BOUND_TO_ITS_HOLDINGS", sells_holdings=True),
    Row(moves=False, code="BOUND_TO_ITS_LEGS", is_leg=True),
    Row(
        moves=True,
        code="MARGIN_BY_CONSENT",
        states={TaskState.REJECTED},
        evidence={Evidence.MARGIN},
        moves_on_margin=True,
    ),
    Row(
        moves=True,
        code="NEVER_SENT",
        states={TaskState.READY},
        evidence={Evidence.NEVER_SENT},
    ),
    Row(moves=True, code="CERTAINLY_NOT_THERE", states={TaskState.READY}, evidence=_CERTAIN),
    Row(moves=False, code="NOT_FORESEEN"),
)
"""The last row has no condition, so that one always matches."""


def judge(situation: Situation, target: Target) -> Ruling:
    """Return whether an order may move to an account; never raises."""
    row = next(row for row in TABLE if _matches(row, situation))
    if not row.moves:
        return Ruling(moves=False, code=row.code)
    for is_fit, code in (
        (target.is_of_group, "NOT_OF_THE_GROUP"),
        (target.is_held, "HELD_BY_ANOTHER_DAEMON"),
        (target.is_open, "TARGET_NOT_OPEN"),
    ):
        if not is_fit:
            return Ruling(moves=False, code=code)
    return Ruling(moves=True, code=row.code)


def _matches(row: Row, situation: Situation) -> bool:
    body = situation.body
    sells_holdings = (
        body.get("transaction_type") == Side.SELL and body.get("product") == Product.CNC
    )
    return (
        (row.states is None or situation.state in row.states)
        and (row.kinds is None or situation.kind in row.kinds)
        and (row.evidence is None or situation.evidence in row.evidence)
        and (row.reduces is None or situation.reduces is row.reduces)
        and (row.is_leg is None or situation.is_leg is row.is_leg)
        and (row.sells_holdings is None or sells_holdings is row.sells_holdings)
        and (row.moves_on_margin is None or situation.moves_on_margin is row.moves_on_margin)
    )
