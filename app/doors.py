"""The two doors for orders, REST and WebSocket, on one listener with one set of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI, WebSocket

from app.http import desk, exits, kill_switch, postback, risk
from app.http import orders as rest
from app.security.limits import ConnectionCaps, ConnectionRegister, RequestLimiter, RequestRate
from app.security.tokens import TokenRefused
from app.ws import orders as sockets
from ticker_service.errors import OrderRefused
from ticker_service.orders.access import Caller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.risk_file import RiskFile
    from app.security.tokens import Principal, Scope, TokenVerifier
    from ticker_service.domain.order import OrderEvent
    from ticker_service.orders.front import FrontDesk
    from ticker_service.orders.postbacks import Postbacks
    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach

DESCRIPTION: Final = (
    "Orders, journalled before they are sent and sent at most once. The WebSocket /v1/orders/ws "
    "speaks the same words as JSON frames; see docs/orders.md."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCaller(Caller):
    """A caller with what their token allows and until when (ns since the Unix epoch)."""

    scopes: frozenset[str]
    expires_at_ns: int


@dataclass(slots=True, kw_only=True)
class Doors:
    """What both doors share: who may enter, how often, and whom they talk to."""

    front: FrontDesk
    verifier: TokenVerifier
    clock: Clock
    reach: Reach
    postbacks: Postbacks | None = None
    postback_word: str = field(default="", repr=False)
    risk_file: RiskFile | None = None
    rate: RequestLimiter = field(init=False)
    connections: ConnectionRegister = field(init=False)

    def __post_init__(self) -> None:
        self.rate = RequestLimiter(RequestRate(), self.clock)
        self.connections = ConnectionRegister(ConnectionCaps())

    def caller_of_token(self, token: str) -> KnownCaller:
        """Return whom a token speaks for.

        Raises:
            TokenRefused: It opens nothing.
        """
        principal: Principal = self.verifier.verify(token, self.clock.now_ns())
        return KnownCaller(
            principal=principal.subject,
            accounts=principal.accounts,
            scopes=principal.scopes,
            expires_at_ns=principal.expires_at_ns,
        )

    def caller_of(self, authorization: str) -> KnownCaller:
        """Return whom an ``Authorization`` header speaks for, counting the request."""
        caller = self.caller_of_token(rest.bearer_token(authorization))
        self.count(caller)
        return caller

    def knows(self, authorization: str) -> bool:
        """Return whether an ``Authorization`` header opens anything."""
        try:
            self.caller_of_token(rest.bearer_token(authorization))
        except TokenRefused:
            return False
        return True

    async def events(
        self, caller: Caller, account: str, *, after: int, limit: int
    ) -> Sequence[OrderEvent]:
        """Return an account's events after a number.

        Raises:
            OrderRefused: No event has that number yet.
        """
        found = await self.front.events(caller, account, after=after, limit=limit)
        if not found and after > (newest := await self.front.last_seq(caller, account)):
            raise self.after_the_newest("after", after, newest)
        return found

    @staticmethod
    def after_the_newest(field: str, after: int, newest: int) -> OrderRefused:
        """Return the refusal of a number that no event has yet.

        Whoever brings one has it from another account or another database, such as one that was
        put back from a copy: to wait until the numbers come past it would be to miss events.
        """
        return OrderRefused(
            "AFTER_THE_NEWEST",
            f"must be at most {newest}, the number of the newest event",
            field=field,
            value=after,
        )

    def read_risk_limits(self, caller: Caller) -> dict[str, str | bool]:
        """Put in force what the settings say of risk limits now.

        Raises:
            OrderRefused: The caller's token is not good for all accounts, or they are wrong.
        """
        if caller.accounts != "all":
            rule = "must be all: the limits are those of every account"
            raise OrderRefused(
                "FORBIDDEN", rule, field="accounts", value=", ".join(caller.accounts)
            )
        if self.risk_file is None:
            raise OrderRefused("NOT_POSSIBLE", "these doors know of no settings to read")
        return self.risk_file.read_again(caller.principal)

    def count(self, caller: Caller) -> None:
        """Take one request from the caller's allowance.

        Raises:
            OrderRefused: It is used up.
        """
        wait_s = self.rate.take(caller.principal)
        if wait_s > 0.0:
            raise OrderRefused("TOO_MANY_REQUESTS", f"try again in {wait_s:.2f} s")

    @staticmethod
    def demand(caller: Caller, scope: Scope) -> None:
        """Refuse a caller whose token lacks a scope."""
        if not isinstance(caller, KnownCaller) or scope not in caller.scopes:
            raise rest.forbidden(scope)


def application(doors: Doors) -> FastAPI:
    """Return the listener's application, its OpenAPI under ``/openapi.json``."""
    # FastAPI's own pages load scripts from elsewhere, which the answers' headers forbid.
    app = FastAPI(
        title="ticker-service orders",
        version="1",
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # To repeat a POST elsewhere, at a host that the request itself named, is nobody's wish.
        redirect_slashes=False,
    )
    rest.install_faults(app)
    app.state.doors = doors
    # Not `include_router`: it makes every route anew, and the first caller waits for that.
    app.router.routes.extend(rest.router.routes)
    app.router.routes.extend(kill_switch.router.routes)
    app.router.routes.extend(risk.router.routes)
    app.router.routes.extend(desk.router.routes)
    if doors.postbacks is not None and doors.postback_word:
        route = postback.router(doors.postbacks, doors.postback_word, doors.clock)
        app.router.routes.extend(route.routes)
    app.router.routes.extend(exits.router.routes)

    @app.websocket("/v1/orders/ws")
    async def orders_socket(websocket: WebSocket) -> None:
        await sockets.serve(websocket, doors)

    return app
