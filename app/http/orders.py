"""REST door for orders: ``/v1/orders``. Nothing works without a bearer token."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.http import faults, postback
from app.http.entry import ERRORS, DoorsHere, ExactRoute, Reads, Writes
from app.http.exits import ExitAnswer, status_answer
from app.http.faults import EXPECTED, INTEGER_MAX, answer_of, internal, invalid, unread
from app.http.schemas import (
    KEY_CHARACTERS_MAX,
    KEY_PATTERN,
    PART_KEY_CHARACTERS_MAX,
    PART_KEY_PATTERN,
    BasketRequest,
    ErrorAnswer,
    JobAnswer,
    ModifyRequest,
    OrdersAnswer,
    PlaceRequest,
    TaskAnswer,
    external_answer,
    job_answer,
    task_answer,
)
from app.security.tokens import TokenFault, TokenRefused
from ticker_service.domain.order import TaskKind, event_message
from ticker_service.errors import OrderRefused
from ticker_service.orders.instructions import Answer

if TYPE_CHECKING:
    from app.doors import Doors
else:
    Doors = Any

log = structlog.get_logger()

HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
BODY_BYTES_MAX: Final = 16_384
PAGE_MAX: Final = 500
_OrderKey = Annotated[str, Path(max_length=PART_KEY_CHARACTERS_MAX, pattern=PART_KEY_PATTERN)]
_Key = Annotated[str, Query(max_length=KEY_CHARACTERS_MAX, pattern=KEY_PATTERN)]
_Page = Annotated[int, Query(ge=1, le=PAGE_MAX)]


router = APIRouter(prefix="/v1/orders", tags=["orders"], responses=ERRORS, route_class=ExactRoute)


@router.post("", status_code=202, response_model=TaskAnswer | JobAnswer)
async def place(request: PlaceRequest, who: Writes, doors: DoorsHere) -> Response:
    """Journal a new order; 202 when new, 200 with the same task when its key is known.

    With `slice` an order above the freeze quantity is cut into several, and the answer is a job.
    """
    if request.slice:
        sliced = await doors.front.jobs.place_sliced(
            who,
            account=request.account,
            group=request.group,
            client_order_id=request.client_order_id,
            request_id=request.request_id or request.client_order_id,
            order=request.order.to_domain(),
        )
        return await _job_answer(sliced, doors)
    answer = await doors.front.place(
        who,
        account=request.account,
        group=request.group,
        client_order_id=request.client_order_id,
        request_id=request.request_id or request.client_order_id,
        order=request.order.to_domain(),
    )
    return _answer(answer)


@router.post("/basket", status_code=202, response_model=JobAnswer)
async def basket(request: BasketRequest, who: Writes, doors: DoorsHere) -> Response:
    """Journal a basket; 202 when new, 200 with the same job as it stands when its key is known."""
    answer = await doors.front.jobs.basket(
        who,
        account=request.account,
        client_order_id=request.client_order_id,
        request_id=request.request_id or request.client_order_id,
        basket=request.to_domain(),
    )
    return await _job_answer(answer, doors)


@router.get("/basket/{client_order_id}", response_model=JobAnswer)
async def job_status(client_order_id: _OrderKey, who: Reads, doors: DoorsHere) -> dict[str, Any]:
    """Return a basket or a sliced order as the journal has it, leg by leg."""
    job, children = await doors.front.jobs.job(who, client_order_id)
    if job.kind not in {TaskKind.BASKET, TaskKind.SLICES}:
        raise OrderRefused(
            "UNKNOWN_ORDER",
            "must be one of your baskets or sliced orders",
            field="client_order_id",
            value=client_order_id,
        )
    return job_answer(job, children)


@router.get("", response_model_exclude_unset=True)
async def list_orders(
    who: Reads,
    doors: DoorsHere,
    account: _Key | None = None,
    limit: _Page = 100,
    external: bool = False,  # noqa: FBT001, FBT002 - a parameter of the query
    only_open: Annotated[bool, Query(alias="open")] = False,  # noqa: FBT002 - likewise
) -> OrdersAnswer:
    """List your newest instructions, newest first, and if asked for what was placed elsewhere."""
    tasks = await doors.front.orders(who, account, limit=limit, only_open=only_open)
    orders = [TaskAnswer(**task_answer(task)) for task in tasks]
    if not external:
        return OrdersAnswer(orders=orders)
    found = doors.front.external(who, account)
    return OrdersAnswer(orders=orders, external=[external_answer(each) for each in found])


@router.get("/events")
async def events(
    who: Reads,
    doors: DoorsHere,
    account: _Key,
    after: Annotated[int, Query(ge=0, le=INTEGER_MAX)] = 0,
    limit: _Page = 100,
) -> dict[str, list[dict[str, Any]]]:
    """List an account's events after a number, in order, without a hole."""
    found = await doors.events(who, account, after=after, limit=limit)
    return {"events": [event_message(event, may_use=who.may_use) for event in found]}


@router.get("/{client_order_id}", response_model=TaskAnswer | JobAnswer | ExitAnswer)
async def status(client_order_id: _OrderKey, who: Reads, doors: DoorsHere) -> dict[str, Any]:
    """Return an order, a basket, a sliced order or an exit as the journal has it."""
    return status_answer(await doors.front.order_or_job(who, client_order_id))


@router.get("/{client_order_id}/changes", response_model_exclude_unset=True)
async def changes(
    client_order_id: _OrderKey, who: Reads, doors: DoorsHere, limit: _Page = 100
) -> OrdersAnswer:
    """List the changes and cancels of an order or a job, newest first, each with how it ended."""
    tasks = await doors.front.changes(who, client_order_id, limit=limit)
    return OrdersAnswer(orders=[TaskAnswer(**task_answer(task)) for task in tasks])


@router.put("/{client_order_id}", status_code=202, response_model=TaskAnswer)
async def modify(
    client_order_id: _OrderKey, request: ModifyRequest, who: Writes, doors: DoorsHere
) -> Response:
    """Journal a change of a live order."""
    answer = await doors.front.modify(
        who,
        client_order_id=client_order_id,
        request_id=request.request_id,
        change=request.order.to_domain(),
    )
    return _answer(answer)


@router.delete("/{client_order_id}", status_code=202, response_model=TaskAnswer)
async def cancel(
    client_order_id: _OrderKey,
    request_id: _Key,
    who: Writes,
    doors: DoorsHere,
    closes: Annotated[bool, Query(alias="exit", description="The exit of a cover order.")] = False,  # noqa: FBT002 - a query is named
) -> Response:
    """Journal the cancel of an order or a whole job, or the exit of a filled cover order."""
    answer = await doors.front.cancel(
        who, client_order_id=client_order_id, request_id=request_id, closes=closes
    )
    return _answer(answer)


def install_faults(app: FastAPI) -> None:
    """Answer every fault in one shape, also those of ours, and hold bodies to a size."""

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        status, body = answer_of(error)
        challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {}  # noqa: PLR2004
        return JSONResponse(body, status_code=status, headers=HEADERS | challenge)

    async def refuse_shape(_: Request, error: Exception) -> JSONResponse:
        details = error.errors() if isinstance(error, RequestValidationError) else []
        answer = invalid(details)
        code = 400 if answer.code == "INVALID_JSON" else 422
        return JSONResponse(answer.model_dump(), status_code=code, headers=HEADERS)

    async def refuse_unread(_: Request, error: Exception) -> JSONResponse:
        code, why = (
            (error.status_code, error.detail) if isinstance(error, HTTPException) else (400, "")
        )
        status, answer = unread(code, why)
        return JSONResponse(answer.model_dump(), status_code=status, headers=HEADERS)

    for kind in EXPECTED:
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(HTTPException, refuse_unread)
    app.add_exception_handler(RequestValidationError, refuse_shape)

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        unfit = _unfit(request)
        if unfit is not None:
            status, fault = unfit
            return JSONResponse(fault.model_dump(), status_code=status, headers=HEADERS)
        try:
            response = await call_next(request)
        except Exception:  # the root of a request: one that meets a bug of ours is answered, too
            log.exception("order_door_failed", door="rest", method=request.method)
            return JSONResponse(internal(), status_code=500, headers=HEADERS)
        response.headers.update(HEADERS)
        return response


def _unfit(request: Request) -> tuple[int, ErrorAnswer] | None:
    """Return why a request's body is not even read, None if it is."""
    if "transfer-encoding" in request.headers:
        return 411, faults.without_length()
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        return 413, faults.too_large(length, BODY_BYTES_MAX)
    content_type = request.headers.get("content-type", "")
    if request.url.path.startswith(postback.PREFIX):
        return None  # what the broker calls its body is not documented
    if int(length) and content_type.partition(";")[0].strip().lower() != "application/json":
        return 415, faults.not_called_json(content_type)
    return None


def bearer_token(authorization: str) -> str:
    """Return the token of an ``Authorization`` header.

    Raises:
        TokenRefused: There is none.
    """
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenRefused(TokenFault.INVALID, "an Authorization: Bearer header is needed")
    return token.strip()


def forbidden(scope: str) -> OrderRefused:
    """Return the refusal of a token that lacks a scope."""
    return OrderRefused("FORBIDDEN", f"needs a token with scope {scope}")


async def _job_answer(answer: Answer, doors: Doors) -> JSONResponse:
    children = () if answer.is_new else await doors.front.jobs.children_of(answer.task)
    return JSONResponse(
        job_answer(answer.task, children),
        status_code=202 if answer.is_new else 200,
        headers=HEADERS,
    )


def _answer(answer: Answer) -> JSONResponse:
    return JSONResponse(
        task_answer(answer.task), status_code=202 if answer.is_new else 200, headers=HEADERS
    )
