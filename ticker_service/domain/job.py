"""Jobs as values: what a basket or a sliced order asks for, its parts, and what came of them.

A job's body is a form as an order's is, ``legs.1.price`` for the price of its first leg; legs and
slices count from 1. How a leg is cut is in the job's facts, because it follows from the exchange's
rules of that day and is no part of what the caller asked. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import (
    OrderTask,
    Side,
    TaskKind,
    request_from_fields,
    to_fields,
)
from ticker_service.domain.order_state import IN_DOUBT, JOB_OPEN, LIVE, TERMINAL, UNSENT
from ticker_service.domain.order_state import TaskState as S

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ticker_service.domain.order import NewTask, OrderChange, OrderRequest, TaskUpdate

SEPARATOR: Final = "~"
"""Between a job's key and the part of it; no caller's own key may have one."""
LEGS_MAX: Final = 20
PARTS_MAX: Final = 100
"""At ten orders a second they have all left long before the last one's time is over."""
_HUNDREDTH_PAISA: Final = Decimal("0.0001")
CANCELS_MAX: Final = 10
"""So many cancels that came to the broker, and the order still stands: that is a person's."""
UNSENT_CANCELS_MAX: Final = 1_000
"""And so many whose time ended unsent; longer than a trading day at their pace."""
CANCEL_AGAIN_S: Final = 5.0
"""An order that still stands so long after its cancel ended is cancelled again."""
CANCEL_AGAIN_S_MAX: Final = 60.0
"""The pause doubles up to this with every cancel that ended unsent."""
SLICES: Final = "slices"
FILLED: Final = "filled"
REFUSED: Final = "refused"
"""The fact of a job that tells which parts our own limits refused, by key, and why."""
EXIT_LEGS: Final = "legs"
HELD_BEFORE: Final = "held_before"
REPORT: Final = "report"
"""The facts of an exit: its positions by their number, what was held of each, what came of it."""
EXHAUSTED: Final = "exhausted"
"""The positions, by number, whose LIMIT stood at the end of its band in vain, and why so."""
KILLED: Final = "killed"
"""The positions of an exit, by number, whose symbol a kill switch stops, and which."""


class BasketMode(StrEnum):
    """What the failure of one leg means for the others."""

    INDEPENDENT = "independent"
    """Nothing."""
    ALL_OR_COMPENSATE = "all_or_compensate"
    """Nothing more is sent, and what rests is cancelled; what filled stays filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One order of a basket; ``slice`` says that it may be cut if it is too large."""

    order: OrderRequest
    slice: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Basket:
    """What a caller asks for; with ``buys_first`` no SELL leaves before every BUY is filled."""

    legs: tuple[Leg, ...]
    mode: BasketMode = BasketMode.INDEPENDENT
    buys_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One order that a job is to place, and the key it goes by."""

    leg: int
    slice: int
    key: str
    order: OrderRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What is to be done about a job now: orders, changes and cancels of them, a step of its own.

    A step is taken before anything is asked, and what is asked then belongs to the next look.
    """

    place: tuple[Part, ...] = ()
    change: tuple[tuple[OrderTask, OrderChange], ...] = ()
    cancel: tuple[OrderTask, ...] = ()
    update: TaskUpdate | None = None


def body_of(basket: Basket) -> dict[str, str]:
    """Return a basket as a form; :func:`basket_of` reads it."""
    form = {"mode": basket.mode.value}
    if basket.buys_first:
        form["buys_first"] = "true"
    for number, leg in enumerate(basket.legs, 1):
        if leg.slice:
            form[f"legs.{number}.slice"] = "true"
        form |= {f"legs.{number}.{name}": text for name, text in to_fields(leg.order).items()}
    return form


def basket_of(body: Mapping[str, str]) -> Basket:
    """Return the basket that :func:`body_of` wrote."""
    forms = leg_forms(body)
    return Basket(
        mode=BasketMode(body["mode"]),
        buys_first="buys_first" in body,
        legs=tuple(
            Leg(order=request_from_fields(forms[number]), slice="slice" in forms[number])
            for number in sorted(forms)
        ),
    )


def leg_forms(body: Mapping[str, str]) -> dict[int, dict[str, str]]:
    """Return the form of each leg by its number; empty for what is no job."""
    forms: defaultdict[int, dict[str, str]] = defaultdict(dict)
    for name, text in body.items():
        what, _, rest = name.partition(".")
        number, _, field = rest.partition(".")
        if what == "legs" and field:
            forms[int(number)][field] = text
    return dict(forms)


def order_forms(task: NewTask | OrderTask) -> list[Mapping[str, str]]:
    """Return the orders that an instruction speaks of: one, or those of its legs."""
    return list(leg_forms(task.body).values()) or [task.body]


def parts_of(job: OrderTask) -> list[Part]:
    """Return every order that a job may place, in the order of legs and slices."""
    cuts = cuts_of(job)
    return [
        Part(
            leg=number,
            slice=position,
            key=part_key(job.client_order_id, number, position if len(cuts[number]) > 1 else 0),
            order=replace(leg.order, quantity=quantity),
        )
        for number, leg in enumerate(basket_of(job.body).legs, 1)
        for position, quantity in enumerate(cuts[number], 1)
    ]


def cuts_of(job: OrderTask) -> dict[int, list[int]]:
    """Return the quantities into which each leg of a job is cut, one for a leg that is not."""
    told: Any = (job.facts or {}).get(SLICES, {})
    whole = {number: int(form["quantity"]) for number, form in leg_forms(job.body).items()}
    return {
        number: [int(part) for part in told.get(str(number), [quantity])]
        for number, quantity in whole.items()
    }


def refused_parts(job: OrderTask) -> dict[str, str]:
    """Return which parts of a job were refused before they were journalled, by key, and why."""
    told: Any = (job.facts or {}).get(REFUSED, {})
    return {str(key): str(why) for key, why in told.items()}


def part_key(key: str, leg: int, position: int = 0) -> str:
    """Return the key of a part: ``key~2`` for a leg, ``key~2.3`` for the third slice of one."""
    return f"{key}{SEPARATOR}{leg}" + (f".{position}" if position else "")


def change_key(order: OrderTask, number: int) -> str:
    """Return the key of our own change of a part, counted from 1."""
    return f"{order.client_order_id}{SEPARATOR}change-{number}"


def cancel_key(order: OrderTask, number: int) -> str:
    """Return the key of our own cancel of a part, counted from 1."""
    return f"{order.client_order_id}{SEPARATOR}cancel-{number}"


def orders_among(children: Collection[OrderTask]) -> dict[tuple[int, int], OrderTask]:
    """Return a job's orders by leg and slice."""
    return {
        (child.leg or 0, child.slice or 0): child
        for child in children
        if child.kind is TaskKind.PLACE
    }


def cancels_of(order: OrderTask, children: Collection[OrderTask]) -> list[OrderTask]:
    """Return what was asked to end an order of a job, oldest first."""
    return [
        child
        for child in children
        if child.kind is TaskKind.CANCEL and child.target_task_id == order.task_id
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How orders that are to end stand.

    Attributes:
        cancel: Those to be cancelled now.
        given_up: Those that stand after so many cancels that a person has to end them.
        is_stuck: All of them are given up; nothing is left to wait for.
    """

    cancel: tuple[OrderTask, ...]
    given_up: tuple[OrderTask, ...]
    is_stuck: bool

    @property
    def why(self) -> str:
        """What a person is told who has to end what is given up."""
        keys = ", ".join(order.client_order_id for order in self.given_up)
        verb = "stands" if len(self.given_up) == 1 else "stand"
        return f"{keys} {verb} after {CANCELS_MAX} cancels or more; end it at the broker"


def ending(standing: Sequence[OrderTask], children: Collection[OrderTask], now_ns: int) -> Ending:
    """Return what is to be done so that orders end.

    A cancel whose time ended unsent says nothing of the broker: after it the pauses get longer, and
    it does not count as one of those that did not help.

    Args:
        standing: Orders of one job that have not ended.
        children: All that was asked in the job's name.
        now_ns: Wall time, ns since the Unix epoch.
    """
    cancel, given_up = [], []
    for order in standing:
        asked = cancels_of(order, children)
        if any(each.state not in TERMINAL and each.state is not S.ACKED for each in asked):
            continue
        unsent = len(asked) - len(came_to_the_broker(asked))
        if len(asked) - unsent >= CANCELS_MAX or unsent >= UNSENT_CANCELS_MAX:
            given_up.append(order)
            continue
        pause_s = min(CANCEL_AGAIN_S * 2.0 ** min(unsent, 10), CANCEL_AGAIN_S_MAX)
        ended_ns = max((each.updated_at_ns for each in asked), default=None)
        # A clock that was set back must not keep a cancel away.
        if ended_ns is None or not 0 <= now_ns - ended_ns < int(pause_s * NS_PER_S):
            cancel.append(order)
    return Ending(
        cancel=tuple(cancel),
        given_up=tuple(given_up),
        is_stuck=bool(given_up) and len(given_up) == len(standing),
    )


def came_to_the_broker(cancels: Collection[OrderTask]) -> list[OrderTask]:
    """Return the cancels that ended otherwise than by waiting for their turn until it was over."""
    return [cancel for cancel in cancels if cancel.state is not S.EXPIRED]


def changes_of(order: OrderTask, children: Collection[OrderTask]) -> list[OrderTask]:
    """Return what was asked to change an order of a job, oldest first."""
    return [
        child
        for child in children
        if child.kind is TaskKind.MODIFY and child.target_task_id == order.task_id
    ]


def has_failed(order: OrderTask) -> bool:
    """Return whether an order certainly ended without being filled whole."""
    return order.state in TERMINAL and order.state not in {S.FILLED, S.MANUAL}


def at_stake(order: OrderTask) -> int:
    """Return how much of an order is or may be at the market: what is in doubt counts whole."""
    if order.state in UNSENT:
        return order.filled_quantity
    if order.state in IN_DOUBT | LIVE | {S.FILLED, S.MANUAL}:
        return int(order.body["quantity"])
    return order.filled_quantity


def excess(job: OrderTask, children: Collection[OrderTask]) -> str:
    """Return where a job's orders are more than was asked, empty if nowhere (I13)."""
    sums: defaultdict[int, int] = defaultdict(int)
    for (leg, _), order in orders_among(children).items():
        sums[leg] += at_stake(order)
    whole = {number: int(form["quantity"]) for number, form in leg_forms(job.body).items()}
    for leg, quantity in sorted(sums.items()):
        if quantity > whole.get(leg, 0):
            return f"leg={leg} quantity={whole.get(leg, 0)} sent_or_in_doubt={quantity}"
    return ""


class LegStatus(StrEnum):
    """How a leg stands, for who asked for it; in sum where it is several orders."""

    WAITING = "WAITING"
    """Nothing of it has been journalled; it waits for other legs."""
    OPEN = "OPEN"
    """It is on its way or rests."""
    UNKNOWN = "UNKNOWN"
    """Whether the broker has it is not known yet."""
    FILLED = "FILLED"
    """All of it is filled."""
    FAILED = "FAILED"
    """It ended, and not all of it is filled."""
    NOT_SENT = "NOT_SENT"
    """It was not sent and will not be."""
    MANUAL = "MANUAL"
    """Nobody knows what became of it; a person decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegReport:
    """What came of one leg, in sum and order by order; ``cancels`` is what was done to end it."""

    leg: int
    status: LegStatus
    order: OrderRequest
    filled_quantity: int
    average_price: Decimal | None
    orders: tuple[OrderTask, ...]
    cancels: tuple[OrderTask, ...]
    refused: str = ""
    """Why our own limits refused a part of it."""


def report(job: OrderTask, children: Sequence[OrderTask]) -> list[LegReport]:
    """Return how each leg of a job stands by what the journal has of its orders."""
    orders = orders_among(children)
    cuts = cuts_of(job)
    refused = refused_parts(job)
    keys = {part.key: part.leg for part in parts_of(job)}
    why = {keys[key]: said for key, said in refused.items() if key in keys}
    return [
        _leg_report(
            job,
            number,
            leg.order,
            [orders.get((number, position)) for position in range(1, len(cuts[number]) + 1)],
            children,
            why.get(number, ""),
        )
        for number, leg in enumerate(basket_of(job.body).legs, 1)
    ]


def _leg_report(
    job: OrderTask,
    number: int,
    order: OrderRequest,
    slots: Sequence[OrderTask | None],
    children: Sequence[OrderTask],
    refused: str,
) -> LegReport:
    placed = tuple(each for each in slots if each is not None)
    filled = sum(each.filled_quantity for each in placed)
    priced = [each for each in placed if each.filled_quantity and each.average_price is not None]
    value = Decimal(0)
    for each in priced:
        value += each.filled_quantity * (each.average_price or Decimal(0))
    of_price = sum(each.filled_quantity for each in priced)
    return LegReport(
        leg=number,
        status=_status(job, slots, is_refused=bool(refused)),
        order=order,
        filled_quantity=filled,
        average_price=_average(value, of_price) if of_price == filled else None,
        orders=placed,
        cancels=tuple(cancel for each in placed for cancel in cancels_of(each, children)),
        refused=refused,
    )


def _average(value: Decimal, quantity: int) -> Decimal | None:
    """Return the average to a hundredth of a paisa: a third of a rupee has no end."""
    return (value / quantity).quantize(_HUNDREDTH_PAISA) if quantity else None


def _status(job: OrderTask, slots: Sequence[OrderTask | None], *, is_refused: bool) -> LegStatus:
    states = {each.state for each in slots if each is not None}
    is_whole = None not in slots
    if S.MANUAL in states:
        return LegStatus.MANUAL
    if states & IN_DOUBT:
        return LegStatus.UNKNOWN
    if states - TERMINAL:
        return LegStatus.OPEN
    if states == {S.FILLED} and is_whole:
        return LegStatus.FILLED
    if not is_whole and job.state is S.RUNNING and not is_refused:
        return LegStatus.OPEN if states else LegStatus.WAITING
    return LegStatus.FAILED if states else LegStatus.NOT_SENT


def is_open(job: OrderTask) -> bool:
    """Return whether a job has something left to do."""
    return job.state in JOB_OPEN


def buys(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that buy."""
    return [part for part in parts if part.order.transaction_type is Side.BUY]
