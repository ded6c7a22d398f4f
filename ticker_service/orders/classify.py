"""What became of one request to the broker: one table, first match wins.

Path: order -> admit -> journal -> execute -> [classify] -> settle -> report. Pure. Everything the
table does not foresee is AMBIGUOUS (I1): an order is called refused or unsent only on proof, and
Kite's own 400 "Order request timed out" has placed orders. Source: reliability.md §1.3 and
kite.md §4, §5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.ports import Withheld

if TYPE_CHECKING:
    from collections.abc import Container

    from ticker_service.ports import Reply

MESSAGE_CHARACTERS_MAX: Final = 500


class Outcome(StrEnum):
    """What a send did at the broker."""

    NOT_SENT = "NOT_SENT"
    """Nothing left: certain."""
    REJECTED = "REJECTED"
    """The broker said no: certain."""
    REJECTED_AUTH = "REJECTED_AUTH"
    """The broker does not know us: certain; a new login is needed."""
    THROTTLED = "THROTTLED"
    """Refused for its rate: certain; later it may pass."""
    ACKED = "ACKED"
    """The broker has it and gave an order id."""
    AMBIGUOUS = "AMBIGUOUS"
    """It may have had its effect: look, never send again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on one request.

    ``code`` is a stable word of :data:`TABLE`; ``message`` is the broker's text or the failure, for
    people; ``order_id`` is empty unless the outcome is ACKED.
    """

    outcome: Outcome
    order_id: str
    code: str
    message: str


class Body(StrEnum):
    """What a JSON body turned out to be."""

    NONE = "none"
    """No JSON object, or not declared as JSON."""
    ERROR = "error"
    """Kite's ``status=error`` envelope."""
    ORDER = "order"
    """Kite's ``status=success`` with an order id."""
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One observation; a condition left out is not asked."""

    outcome: Outcome
    code: str
    withheld: Withheld | None = None
    http: Container[int] | None = None
    body: Body | None = None
    error_types: Container[str] | None = None
    says: re.Pattern[str] | None = None
    kind: TaskKind | None = None


STATE_AFTER: Final = {
    Outcome.ACKED: TaskState.ACKED,
    Outcome.REJECTED: TaskState.REJECTED,
    Outcome.AMBIGUOUS: TaskState.UNKNOWN,
    Outcome.NOT_SENT: TaskState.READY,
    Outcome.THROTTLED: TaskState.READY,
    Outcome.REJECTED_AUTH: TaskState.READY,
}
"""The law of sending again (reliability.md §1.8): READY is, as a new attempt with a new tag, within
its deadline and ``attempts_max`` (``orders.execute``); nothing else ever is. It holds for places,
changes and cancels alike, and the database knows no way from UNKNOWN to READY."""

HALTING_CODES: Final = {
    code.value: code for code in (HaltCode.WRONG_IP, HaltCode.BROKER_ORDER_LIMIT)
}
"""Refusals that every further order of the account would meet: they halt it."""

_SUCCESS: Final = range(200, 201)
_REDIRECT: Final = range(300, 400)
_CLIENT: Final = range(400, 500)
_SERVER: Final = range(500, 600)
_REFUSAL: Final = range(400, 600)

_MODIFICATIONS: Final = re.compile(r"maximum allowed order modifications", re.IGNORECASE)
_DAY_LIMIT: Final = re.compile(r"maximum allowed order requests", re.IGNORECASE)
_TIMED_OUT: Final = re.compile(
    r"timed? ?out|order ?book(?! for open orders)|before placing again", re.IGNORECASE
)
"""Whoever is told to look into the order book may have an order there, but for one: a refusal for
want of funds or holdings ends with where what is blocked may be seen."""
_IP: Final = re.compile(r"\bIP(?:s|v4|v6)?\b")
"""Whole word and upper case: Kite's text for a wrong address is not documented (kite.md §3.2)."""

_AUTH: Final = frozenset({"TokenException", "TwoFAException"})
"""A permission that lacks is this order's own refusal and permanent (kite.md §5.1); waiting for a
login would hold every other order of the account back."""
_VAGUE: Final = frozenset({"NetworkException", "DataException", "GeneralException"})

TABLE: Final = (
    # No answer: what the session recorded about its bytes.
    Row(outcome=Outcome.NOT_SENT, code="NOTHING_LEFT", withheld=Withheld.NOTHING_LEFT),
    Row(outcome=Outcome.AMBIGUOUS, code="NO_ANSWER", withheld=Withheld.MAY_HAVE_LEFT),
    # Permanent under whatever status it comes, although Kite calls it a NetworkException; believed
    # for a change only, which leaves the order as it is.
    Row(
        outcome=Outcome.REJECTED,
        code="MODIFICATIONS_EXCEEDED",
        http=_REFUSAL,
        body=Body.ERROR,
        says=_MODIFICATIONS,
        kind=TaskKind.MODIFY,
    ),
    # The status decides before any error_type: an OrderException with 500 proves nothing.
    Row(outcome=Outcome.AMBIGUOUS, code="SERVER_ERROR", http=_SERVER),
    Row(outcome=Outcome.AMBIGUOUS, code="REDIRECTED", http=_REDIRECT),
    Row(outcome=Outcome.ACKED, code="ACKED", http=_SUCCESS, body=Body.ORDER),
    Row(outcome=Outcome.AMBIGUOUS, code="NO_ORDER_ID", http=_SUCCESS),
    # 4xx. First what sounds like a refusal and is none.
    Row(outcome=Outcome.AMBIGUOUS, code="ORDER_TIMED_OUT", http=_CLIENT, says=_TIMED_OUT),
    Row(outcome=Outcome.AMBIGUOUS, code="ORDER_TIMED_OUT", http={408, 499}),
    Row(
        outcome=Outcome.REJECTED,
        code=HaltCode.BROKER_ORDER_LIMIT,
        http=_CLIENT,
        body=Body.ERROR,
        says=_DAY_LIMIT,
    ),
    Row(outcome=Outcome.THROTTLED, code="THROTTLED", http={429}),
    Row(
        outcome=Outcome.REJECTED,
        code="MARGIN",
        http=_CLIENT,
        body=Body.ERROR,
        error_types={"MarginException"},
    ),
    Row(
        outcome=Outcome.REJECTED,
        code="HOLDINGS",
        http=_CLIENT,
        body=Body.ERROR,
        error_types={"HoldingException"},
    ),
    Row(outcome=Outcome.REJECTED, code=HaltCode.WRONG_IP, http=_CLIENT, body=Body.ERROR, says=_IP),
    Row(
        outcome=Outcome.REJECTED_AUTH,
        code="AUTH_REFUSED",
        http={401, 403},
        body=Body.ERROR,
        error_types=_AUTH,
    ),
    Row(outcome=Outcome.REJECTED, code="HOLDINGS", http={428}, body=Body.ERROR),
    Row(outcome=Outcome.REJECTED, code="NO_SUCH_ROUTE", http={404, 405}, body=Body.ERROR),
    # "Request failed (kitetrade-oms)" and its like speak of the way to the exchange, not of a no.
    Row(
        outcome=Outcome.AMBIGUOUS,
        code="BROKER_UNSURE",
        http=_CLIENT,
        body=Body.ERROR,
        error_types=_VAGUE,
    ),
    Row(outcome=Outcome.REJECTED, code="BROKER_REFUSED", http=_CLIENT, body=Body.ERROR),
    Row(outcome=Outcome.AMBIGUOUS, code="UNREADABLE", http=_CLIENT),
    Row(outcome=Outcome.AMBIGUOUS, code="UNFORESEEN"),
)
"""The last row has no condition, so that one always matches."""


def judge(kind: TaskKind, reply: Reply) -> Verdict:
    """Return what a request of this kind did at the broker; never raises.

    Args:
        kind: What was asked.
        reply: What was observed.
    """
    facts = _facts(kind, reply)
    row = next(row for row in TABLE if _matches(row, facts))
    return Verdict(
        outcome=row.outcome,
        order_id=facts.order_id if row.outcome is Outcome.ACKED else "",
        code=row.code,
        message=facts.message,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    kind: TaskKind
    withheld: Withheld | None
    http: int | None
    body: Body
    error_type: str
    message: str
    order_id: str


def _matches(row: Row, facts: _Facts) -> bool:
    return (
        (row.withheld is None or facts.withheld is row.withheld)
        and (row.http is None or (facts.http is not None and facts.http in row.http))
        and (row.body is None or facts.body is row.body)
        and (row.error_types is None or facts.error_type in row.error_types)
        and (row.says is None or row.says.search(facts.message) is not None)
        and (row.kind is None or facts.kind is row.kind)
    )


def _facts(kind: TaskKind, reply: Reply) -> _Facts:
    envelope = _envelope(reply)
    order_id = _order_id(envelope.get("data"))
    is_error = envelope.get("status") == "error" or bool(envelope.get("error_type"))
    if not envelope:
        body = Body.NONE
    elif is_error:
        body = Body.ERROR
    else:
        body = Body.ORDER if order_id else Body.OTHER
    message = _text(envelope.get("message")) or reply.failure
    return _Facts(
        kind=kind,
        withheld=reply.withheld,
        # What was withheld has no answer, whatever status came before the line broke.
        http=reply.http_status if reply.withheld is None else None,
        body=body,
        error_type=_text(envelope.get("error_type")),
        message=message[:MESSAGE_CHARACTERS_MAX],
        order_id=order_id,
    )


def _envelope(reply: Reply) -> Mapping[str, object]:
    """Return the JSON object, empty when there is none or the broker did not call it JSON."""
    is_declared = not reply.content_type or "json" in reply.content_type.lower()
    return reply.body if reply.body is not None and is_declared else {}


def _order_id(data: object) -> str:
    """Return the order id, an opaque text: Kite's have 15 or 19 digits, too many for a float.

    Of a sliced order it is the parent's, or the first slice's where Kite names no parent
    (kite.md §2.3); we do not ask for slicing, and the tag finds the others.
    """
    if isinstance(data, Mapping):
        return _text(data.get("order_id"))
    if isinstance(data, list | tuple):
        ids = (_text(part.get("order_id")) for part in data if isinstance(part, Mapping))
        return next((order_id for order_id in ids if order_id), "")
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
