"""REST doors that close positions: ``/v1/exits`` and ``/v1/flatten``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from app.http.entry import ERRORS, Admins, DoorsHere, ExactRoute, Reads, Writes
from app.http.faults import answer_of
from app.http.schemas import (
    KEY_CHARACTERS_MAX,
    KEY_PATTERN,
    ErrorAnswer,
    Key,
    Money,
    Strict,
    TaskAnswer,
    Units,
    job_answer,
    task_answer,
)
from ticker_service.constants import NS_PER_US
from ticker_service.domain.exit import WITHIN_S, Exit
from ticker_service.domain.exit_price import AUTOMATIC_PROTECTION
from ticker_service.domain.kill_switch import WHY_CHARACTERS_MAX, switch_message
from ticker_service.domain.order import OrderType, Product, TaskKind
from ticker_service.errors import JournalUnavailable, OrderRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.domain.order import OrderTask

_Key = Annotated[str, Path(max_length=KEY_CHARACTERS_MAX, pattern=KEY_PATTERN)]


class ExitTerms(Strict):
    """How positions are closed; see ``docs/exits.md``."""

    market_protection: Money = AUTOMATIC_PROTECTION
    order_type: Literal[OrderType.MARKET, OrderType.LIMIT] = OrderType.MARKET
    within_s: Units = WITHIN_S


class ExitRequest(ExitTerms):
    """One position, or with ``all`` every one of the account."""

    client_order_id: Key
    account: Key
    request_id: Key | None = None
    all: bool = False
    exchange: str = ""
    tradingsymbol: str = ""
    product: Product | None = None
    cancel_resting: bool = False

    def to_domain(self) -> Exit:
        """Return the exit as a value.

        Raises:
            OrderRefused: It names neither one position nor all, or both.
        """
        if self.all == bool(self.exchange or self.tradingsymbol or self.product):
            rule = "must be true, or exchange and tradingsymbol must name one position; not both"
            raise OrderRefused("INVALID_FIELD", rule, field="all", value=self.all)
        return Exit(
            exchange=self.exchange,
            tradingsymbol=self.tradingsymbol,
            product=self.product or "",
            market_protection=self.market_protection,
            order_type=self.order_type,
            cancel_resting=self.cancel_resting,
            within_s=self.within_s,
        )


class FlattenRequest(ExitTerms):
    """An account, or ``all``; ``confirm`` says the same once more."""

    client_order_id: Key
    account: Key
    confirm: Annotated[str, Field(max_length=KEY_CHARACTERS_MAX)]
    why: Annotated[str, Field(max_length=WHY_CHARACTERS_MAX)] = ""


class ExitAnswer(BaseModel):
    """An exit as the journal has it: what was asked, every order of it, and how it ended.

    ``report`` has, once it has ended, what came of each position: what is held, what was filled,
    what rests, and what the broker said last.
    """

    task_id: str
    kind: Literal["EXIT"] = "EXIT"
    account: str
    client_order_id: str
    request_id: str
    state: str
    version: int
    exit: dict[str, str]
    code: str | None
    reason: str | None
    held_before: dict[str, int]
    report: dict[str, dict[str, Any]]
    orders: list[TaskAnswer]
    changes: int
    created_at_us: int
    updated_at_us: int


class FlattenedAccount(BaseModel):
    """What was begun on one account; ``error`` where nothing was, or nobody knows.

    ``client_order_id`` names the exit: as the flatten, and for ``all`` with ``.ACCOUNT`` after it.
    """

    account: str
    client_order_id: str
    exit: ExitAnswer | None = None
    error: ErrorAnswer | None = None


class FlattenAnswer(BaseModel):
    """The switch that lets nothing new open, and the exits that close what there is."""

    kill_switch: dict[str, Any]
    is_on_disk: bool
    accounts: list[FlattenedAccount]


router = APIRouter(prefix="/v1", tags=["exits"], responses=ERRORS, route_class=ExactRoute)


@router.post("/exits", status_code=202, response_model=ExitAnswer)
async def begin(request: ExitRequest, who: Writes, doors: DoorsHere) -> Response:
    """Journal an exit; 202 when new, 200 with the same one as it stands when its key is known."""
    answer = await doors.front.jobs.exit(
        who,
        account=request.account,
        client_order_id=request.client_order_id,
        request_id=request.request_id or request.client_order_id,
        wanted=request.to_domain(),
    )
    children = () if answer.is_new else await doors.front.jobs.children_of(answer.task)
    status = 202 if answer.is_new else 200
    return JSONResponse(exit_answer(answer.task, children), status_code=status)


@router.get("/exits/{client_order_id}", response_model=ExitAnswer)
async def status(client_order_id: _Key, who: Reads, doors: DoorsHere) -> dict[str, Any]:
    """Return an exit as the journal has it."""
    job, children = await doors.front.jobs.job(who, client_order_id)
    if job.kind is not TaskKind.EXIT:
        raise OrderRefused(
            "UNKNOWN_ORDER",
            "must be one of your exits",
            field="client_order_id",
            value=client_order_id,
        )
    return exit_answer(job, children)


@router.post("/flatten", status_code=202, response_model=FlattenAnswer)
async def flatten(request: FlattenRequest, who: Admins, doors: DoorsHere) -> dict[str, Any]:
    """Let nothing new open, cancel what is open and close every position of an account, or of all.

    The switch `REDUCE_ONLY` that it throws stands until somebody releases it.
    """
    if request.confirm != request.account:
        raise OrderRefused(
            "INVALID_FIELD",
            f"must be {request.account!r} again: this closes every position of it",
            field="confirm",
            value=request.confirm,
        )
    front = doors.front
    switch, is_on_disk = await front.controls.close_to_new(who, request.account, request.why)
    wanted = Exit(
        market_protection=request.market_protection,
        order_type=request.order_type,
        cancel_resting=True,
        within_s=request.within_s,
    )
    begun = []
    for account in front.access.accounts_of(who, request.account):
        key = request.client_order_id
        if request.account == "all":
            key = f"{key}.{account}"
        try:
            answer = await front.jobs.exit(
                who, account=account, client_order_id=key, request_id=key, wanted=wanted
            )
        except (OrderRefused, JournalUnavailable) as refused:
            error = ErrorAnswer(**answer_of(refused, None)[1])
            begun.append(FlattenedAccount(account=account, client_order_id=key, error=error))
        else:
            children = () if answer.is_new else await front.jobs.children_of(answer.task)
            told = ExitAnswer(**exit_answer(answer.task, children))
            begun.append(FlattenedAccount(account=account, client_order_id=key, exit=told))
    return FlattenAnswer(
        kill_switch=switch_message(switch), is_on_disk=is_on_disk, accounts=begun
    ).model_dump()


def status_answer(found: OrderTask | tuple[OrderTask, Sequence[OrderTask]]) -> dict[str, Any]:
    """Return an order, or a job with its children, as callers see it: an exit as an exit."""
    if not isinstance(found, tuple):
        return task_answer(found)
    return (exit_answer if found[0].kind is TaskKind.EXIT else job_answer)(*found)


def exit_answer(job: OrderTask, children: Sequence[OrderTask]) -> dict[str, Any]:
    """Return an exit as callers see it."""
    facts: Any = job.facts or {}
    legs = {number: ":".join(name) for number, name in facts.get("legs", {}).items()}
    held = facts.get("held_before", {})
    return ExitAnswer(
        task_id=str(job.task_id),
        account=job.account,
        client_order_id=job.client_order_id,
        request_id=job.request_id,
        state=job.state,
        version=job.version,
        exit=dict(job.body),
        code=job.reason_code or None,
        reason=job.reason or None,
        held_before={name: held.get(number, 0) for number, name in legs.items()},
        report={each["key"]: dict(each) for each in facts.get("report", {}).values()},
        orders=[
            TaskAnswer(**task_answer(child)) for child in children if child.kind is TaskKind.PLACE
        ],
        changes=sum(child.kind is TaskKind.MODIFY for child in children),
        created_at_us=job.created_at_ns // NS_PER_US,
        updated_at_us=job.updated_at_ns // NS_PER_US,
    ).model_dump()
