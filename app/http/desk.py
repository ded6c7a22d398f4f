"""REST door of the dead-letter desk: ``/v1/desk``. It takes a token with scope ``desk``."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app.http.entry import ERRORS, Decides, DoorsHere, ExactRoute
from app.http.schemas import (
    KEY_CHARACTERS_MAX,
    KEY_PATTERN,
    ExternalAnswer,
    Key,
    Money,
    Strict,
    TaskAnswer,
    Units,
    external_answer,
    task_answer,
)
from ticker_service.constants import NS_PER_US
from ticker_service.domain import dead_letter
from ticker_service.domain.dead_letter import WHY_CHARACTERS_MAX, Decision, Ending
from ticker_service.domain.job import SEPARATOR
from ticker_service.domain.order import event_message
from ticker_service.domain.order_state import TaskState
from ticker_service.errors import OrderRefused
from ticker_service.orders.access import Caller
from ticker_service.orders.dead_letters import Case, Letter
from ticker_service.orders.front import ExternalOrder

AGAIN: Final = "-again"
_Account = Annotated[str, Query(max_length=KEY_CHARACTERS_MAX, pattern=KEY_PATTERN)]
_TaskId = Annotated[str, Path(max_length=36)]
_Why = Annotated[str, Field(min_length=1, max_length=WHY_CHARACTERS_MAX, pattern=r"\S")]
_OrderId = Annotated[str, Field(min_length=1, max_length=KEY_CHARACTERS_MAX)]


class AdoptRequest(Strict):
    """The broker's order that a task's is, and why the caller says so."""

    order_id: _OrderId
    why: _Why


class NotPlacedRequest(Strict):
    """Why an order is not at the broker; ``force`` overrules what speaks against it."""

    why: _Why
    force: bool = False


class ResendRequest(Strict):
    """The name of the new order, and why there is one."""

    client_order_id: Key
    why: _Why
    force: bool = False


class CloseRequest(Strict):
    """How an order ended whose day is over, as you read it at the broker."""

    state: Literal["FILLED", "CANCELLED", "REJECTED"]
    filled_quantity: Annotated[Units, Field(ge=0)] = 0
    average_price: Money | None = None
    why: _Why
    force: bool = False


class OrphanRequest(Strict):
    """An order at the broker that has a tag of ours and no task, and its name from now on."""

    account: Key
    order_id: _OrderId
    client_order_id: Key
    why: _Why


class LetterAnswer(BaseModel):
    """A task that may need a person; ``happens`` by itself not before that instant.

    ``resend_name`` is proposed for the new order of a resend, one that no door refuses.
    """

    task: TaskAnswer
    principal: str
    happens: str
    not_before_us: int | None
    actions: list[str]
    resend_name: str


class LettersAnswer(BaseModel):
    """What may need a person, what is in doubt first; orphans are the broker's orders of ours."""

    letters: list[LetterAnswer]
    orphans: list[ExternalAnswer]


class AttemptAnswer(BaseModel):
    """One physical send; times in µs, the outcome null until it ended."""

    attempt: int
    tag: str
    intent_at_us: int
    ended_at_us: int | None
    outcome: str | None
    http_status: int | None
    message: str


class LookAnswer(BaseModel):
    """One reading of the broker's book; ``lacking`` known orders were not in it."""

    began_us: int
    rows: int
    lacking: int


class AuditAnswer(BaseModel):
    """One decision of a person."""

    at_us: int
    event: str
    by_whom: str
    why: str
    state: str
    facts: dict[str, Any]


class CaseAnswer(LetterAnswer):
    """All that is known of one task.

    ``alike`` are the broker's orders that may be its, null when the book could not be read now.
    """

    attempts: list[AttemptAnswer]
    looks: list[LookAnswer]
    alike: list[ExternalAnswer] | None
    unread: str
    resent_as: TaskAnswer | None
    audit: list[AuditAnswer]
    events: list[dict[str, Any]]


router = APIRouter(prefix="/v1/desk", tags=["desk"], responses=ERRORS, route_class=ExactRoute)


@router.get("")
async def letters(who: Decides, doors: DoorsHere, account: _Account | None = None) -> LettersAnswer:
    """List what may need a person, whoever asked for it, on one account or all of yours."""
    found = await doors.front.dead_letters.letters(who, account)
    orphans = [each for each in doors.front.external(who, account) if each.is_orphan]
    return LettersAnswer(
        letters=[LetterAnswer(**_letter(each)) for each in found],
        orphans=[external_answer(each) for each in orphans],
    )


@router.get("/{task_id}")
async def case(task_id: _TaskId, who: Decides, doors: DoorsHere) -> CaseAnswer:
    """Explain one task: what was asked, each send, what the books showed, who decided what."""
    return _case(await doors.front.dead_letters.case(who, _id_of(task_id)), who)


@router.post("/{task_id}/adopt")
async def adopt(
    task_id: _TaskId, request: AdoptRequest, who: Decides, doors: DoorsHere
) -> TaskAnswer:
    """Say which of the broker's orders a task's is; the book is read for it."""
    decision = Decision(by_whom=who.principal, why=request.why)
    task = await doors.front.dead_letters.adopt(who, _id_of(task_id), request.order_id, decision)
    return TaskAnswer(**task_answer(task))


@router.post("/{task_id}/not-placed")
async def not_placed(
    task_id: _TaskId, request: NotPlacedRequest, who: Decides, doors: DoorsHere
) -> TaskAnswer:
    """Say that an order is not at the broker; yours is the responsibility."""
    decision = Decision(by_whom=who.principal, why=request.why, is_forced=request.force)
    task = await doors.front.dead_letters.mark_not_placed(who, _id_of(task_id), decision)
    return TaskAnswer(**task_answer(task))


@router.post("/{task_id}/resend")
async def resend(
    task_id: _TaskId, request: ResendRequest, who: Decides, doors: DoorsHere
) -> TaskAnswer:
    """Ask for the same once more as a new order; asked again it is the same new order."""
    decision = Decision(by_whom=who.principal, why=request.why, is_forced=request.force)
    answer = await doors.front.dead_letters.resend(
        who, _id_of(task_id), request.client_order_id, decision
    )
    return TaskAnswer(**task_answer(answer.task))


@router.post("/{task_id}/close")
async def close(
    task_id: _TaskId, request: CloseRequest, who: Decides, doors: DoorsHere
) -> TaskAnswer:
    """Say how an order ended whose day is over, as the broker's papers of that day have it."""
    decision = Decision(by_whom=who.principal, why=request.why, is_forced=request.force)
    ending = Ending(
        state=TaskState(request.state),
        filled_quantity=request.filled_quantity,
        average_price=request.average_price,
    )
    task = await doors.front.dead_letters.close(who, _id_of(task_id), ending, decision)
    return TaskAnswer(**task_answer(task))


@router.post("/orphans")
async def adopt_orphan(request: OrphanRequest, who: Decides, doors: DoorsHere) -> TaskAnswer:
    """Take an order that the journal has lost into it, as yours; the last one ends the halt."""
    task = await doors.front.dead_letters.adopt_orphan(
        who,
        request.account,
        request.order_id,
        client_order_id=request.client_order_id,
        decision=Decision(by_whom=who.principal, why=request.why),
    )
    return TaskAnswer(**task_answer(task))


def _id_of(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        rule = "must be a task_id, as the desk lists them"
        raise OrderRefused("INVALID_FIELD", rule, field="task_id", value=text) from None


def _letter(letter: Letter) -> dict[str, Any]:
    until_ns = letter.not_before_ns
    return {
        "task": task_answer(letter.task),
        "principal": letter.task.principal,
        "happens": letter.happens,
        "not_before_us": None if until_ns is None else until_ns // NS_PER_US,
        "actions": [str(each) for each in letter.actions],
        "resend_name": name_again(letter.task.client_order_id),
    }


def name_again(name: str) -> str:
    """Return a caller's name for an order that is sent again.

    The sign in the names of a basket's orders is in no caller's own, and a long name is cut short.
    """
    return name.replace(SEPARATOR, ".")[: KEY_CHARACTERS_MAX - len(AGAIN)] + AGAIN


def _case(case: Case, who: Caller) -> CaseAnswer:
    account = case.letter.task.account
    alike = case.alike
    attempts = dead_letter.attempts_told(case.events)
    own = {each.tag for each in attempts}
    return CaseAnswer(
        **_letter(case.letter),
        attempts=[
            AttemptAnswer(
                attempt=each.attempt,
                tag=each.tag,
                intent_at_us=each.intent_at_ns // NS_PER_US,
                ended_at_us=None if each.ended_at_ns is None else each.ended_at_ns // NS_PER_US,
                outcome=each.outcome,
                http_status=each.http_status,
                message=each.message,
            )
            for each in attempts
        ],
        looks=[
            LookAnswer(began_us=look.began_ns // NS_PER_US, rows=look.rows, lacking=look.lacking)
            for look in case.looks
        ],
        alike=None
        if alike is None
        else [
            external_answer(
                # A row that may be this order has no tag, one of ours alone, or one of its own.
                ExternalOrder(account=account, row=row, is_orphan=bool(set(row.tags) - own))
            )
            for row in alike
        ],
        unread=case.unread,
        resent_as=None if case.resent_as is None else TaskAnswer(**task_answer(case.resent_as)),
        audit=[
            AuditAnswer(
                at_us=line.at_ns // NS_PER_US,
                event=line.event,
                by_whom=line.by_whom,
                why=line.why,
                state=line.state,
                facts=dict(line.facts),
            )
            for line in case.audit
        ],
        events=[event_message(event, may_use=who.may_use) for event in case.events],
    )
