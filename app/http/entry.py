"""Who enters the REST doors: everybody is asked for a token before what they brought is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, Request, Security
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from app.http import exact_json
from app.http.schemas import ErrorAnswer
from app.security.tokens import Scope
from ticker_service.errors import OrderRefused
from ticker_service.orders.access import Caller

if TYPE_CHECKING:
    from app.doors import Doors
else:
    Doors = Any

FIELD_MAX: Final = 64
ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": ErrorAnswer}
    for code in (400, 401, 403, 404, 409, 411, 413, 415, 422, 429, 500, 503)
}


_BEARER: Final = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    description="From `ticker-service token create`; with scope orders:read to look, orders:write "
    "to place, change and cancel, desk for the dead-letter desk, admin for kill switches.",
)


class _ExactRequest(Request):
    """A request whose numbers are read by their digits."""

    async def json(self) -> object:
        return exact_json.read_object(await self.body())


class ExactRoute(APIRoute):
    """A route that first asks who is there, and only then reads what they brought."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request of this route."""
        handle = super().get_route_handler()

        async def handle_exactly(request: Request) -> Response:
            doors = _doors(request)
            request.state.caller = doors.caller_of(request.headers.get("authorization", ""))
            self._check_query(request)
            return await handle(_ExactRequest(request.scope, request.receive))

        return handle_exactly

    def _check_query(self, request: Request) -> None:
        """Refuse a parameter that is not one, or comes twice: it was meant to matter."""
        known = [parameter.alias for parameter in self.dependant.query_params]
        seen: set[str] = set()
        for name, value in request.query_params.multi_items():
            if name in seen or name not in known:
                rule = f"must be one of {known}, each once" if known else "must not be there"
                raise OrderRefused("INVALID_REQUEST", rule, field=name[:FIELD_MAX], value=value)
            seen.add(name)


def _doors(connection: Request) -> Doors:
    doors: Doors = connection.app.state.doors
    return doors


def _caller(
    request: Request,
    _: Annotated[object, Security(_BEARER)],  # for those who read the OpenAPI; the doors decide
) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _reader(
    doors: Annotated[Doors, Depends(_doors)], who: Annotated[Caller, Depends(_caller)]
) -> Caller:
    doors.demand(who, Scope.ORDERS_READ)
    return who


def _writer(
    doors: Annotated[Doors, Depends(_doors)], who: Annotated[Caller, Depends(_caller)]
) -> Caller:
    doors.demand(who, Scope.ORDERS_WRITE)
    return who


def _decider(
    doors: Annotated[Doors, Depends(_doors)], who: Annotated[Caller, Depends(_caller)]
) -> Caller:
    doors.demand(who, Scope.DESK)
    return who


def _admin(
    doors: Annotated[Doors, Depends(_doors)], who: Annotated[Caller, Depends(_caller)]
) -> Caller:
    doors.demand(who, Scope.ADMIN)
    return who


DoorsHere = Annotated[Any, Depends(_doors)]
Reads = Annotated[Any, Depends(_reader)]
Writes = Annotated[Any, Depends(_writer)]
Decides = Annotated[Any, Depends(_decider)]
Admins = Annotated[Any, Depends(_admin)]
