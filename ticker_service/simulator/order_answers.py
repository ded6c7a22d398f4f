"""Answers that go wrong: how the order routes break one, as the armed fault says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import orjson
from starlette.responses import HTMLResponse, Response, StreamingResponse

from ticker_service.simulator.envelope import HTTP_OK, JSON, KiteError, json_response
from ticker_service.simulator.order_faults import OrderFault, OrderFaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

TIMED_OUT_400: Final = (
    "Order request timed out. Please check the order book and confirm before placing again."
)
REFUSED_4XX: Final = "Refused on demand."
MS_PER_S: Final = 1_000
TEMPORARY_REDIRECT: Final = 307
_FAILURES: Final = {
    500: ("GeneralException", "Something unexpected went wrong"),
    502: ("DataException", "Unable to understand the response from the OMS"),
    503: ("NetworkException", "Request failed (kitetrade-oms)"),
    504: ("NetworkException", "Gateway timed out"),
}
_GATEWAY_PAGE: Final = "<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_GARBAGE: Final = {
    "garbage": (b'{"status":"success","data":{"order_', JSON),
    "empty": (b"", JSON),
    "html": (b"<html><body>Please wait</body></html>", "text/html"),
    "no_order_id": (orjson.dumps({"status": "success", "data": {}}), JSON),
}
SLOW: Final = frozenset(
    {
        OrderFaultKind.ACCEPT_THEN_TIMEOUT,
        OrderFaultKind.ACCEPT_THEN_RESET,
        OrderFaultKind.DRIBBLE,
    }
)


class OrderAnswers:
    """Sends what a fault makes of an answer.

    Args:
        cut: Resets the TCP connection of a request.
    """

    def __init__(self, cut: Callable[[Request], None]) -> None:
        self._cut = cut

    async def slow(self, request: Request, fault: OrderFault, good: Response) -> Response:
        """Return the good answer late, byte by byte, or never, as the fault says."""
        if fault.kind is OrderFaultKind.DRIBBLE:
            return _dribbled(fault, good)
        if fault.kind is OrderFaultKind.ACCEPT_THEN_TIMEOUT:
            return await self._late(request, fault, good)
        return await self._reset(request, good)

    async def _late(self, request: Request, fault: OrderFault, good: Response) -> Response:
        """Hold the answer back until its time has come, the client has left or it is let go."""
        try:
            async with asyncio.timeout(fault.answer_after_s), asyncio.TaskGroup() as waiting:
                tasks = [
                    waiting.create_task(_gone(request)),
                    waiting.create_task(fault.lifted.wait()),
                ]
                for task in tasks:
                    task.add_done_callback(lambda _: [each.cancel() for each in tasks])
        except TimeoutError:
            return good
        return await self._reset(request, good)

    async def _reset(self, request: Request, good: Response) -> Response:
        self._cut(request)
        await _gone(request)
        return good  # Nobody is there any more to get it.


def at_once(request: Request, fault: OrderFault) -> Response:
    """Return a wrong answer that needs no waiting."""
    match fault.kind:
        case OrderFaultKind.ACCEPT_THEN_400_TIMEOUT:
            return KiteError.input(TIMED_OUT_400).response()
        case OrderFaultKind.HTTP_429:
            return KiteError.throttled().response()
        case OrderFaultKind.REFUSE_4XX:
            return KiteError(
                status_code=fault.status_code,
                error_type=fault.error_type,
                message=fault.message or REFUSED_4XX,
            ).response()
        case OrderFaultKind.GARBAGE_200:
            content, media_type = _GARBAGE[fault.body]
            return Response(content, HTTP_OK, headers={"content-type": media_type})
        case OrderFaultKind.REDIRECT_307:
            location = fault.location or str(request.url)
            return Response(b"", TEMPORARY_REDIRECT, headers={"location": location})
        case _:
            return _failure(fault)


def _failure(fault: OrderFault) -> Response:
    error_type, message = _FAILURES[fault.status_code]
    if fault.body == "html":
        return HTMLResponse(_GATEWAY_PAGE.format(message), fault.status_code)
    error = KiteError(status_code=fault.status_code, error_type=error_type, message=message)
    return json_response(error.body(), fault.status_code)


def _dribbled(fault: OrderFault, good: Response) -> Response:
    """Return the good answer a byte at a time; what is left comes at once when it is let go."""
    content = bytes(good.body)

    async def single_bytes() -> AsyncIterator[bytes]:
        for at in range(len(content)):
            yield content[at : at + 1]
            try:
                async with asyncio.timeout(fault.interval_ms / MS_PER_S):
                    await fault.lifted.wait()
            except TimeoutError:
                continue
            yield content[at + 1 :]
            return

    headers = {"content-type": JSON, "content-length": str(len(content))}
    return StreamingResponse(single_bytes(), good.status_code, headers=headers)


async def _gone(request: Request) -> None:
    """Wait until the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
