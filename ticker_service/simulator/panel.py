"""The panel under ``/sim``: faults on demand, messages, the truth and the ledger. Loopback only.

None of this exists at Kite; it is how a test or a demo makes the broker misbehave on purpose.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from starlette.responses import Response
from starlette.routing import Route

from ticker_service.constants import NS_PER_S, NS_PER_US
from ticker_service.simulator import requests
from ticker_service.simulator.envelope import KiteError, success
from ticker_service.simulator.order_faults import OrderFaultKind

if TYPE_CHECKING:
    from starlette.requests import Request

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.connection import Connection
    from ticker_service.simulator.feed import Feed
    from ticker_service.simulator.ledger import Ledger
    from ticker_service.simulator.sessions import Sessions
    from ticker_service.simulator.truth import TruthHistory
    from ticker_service.simulator.updates import OrderUpdates

CLEAR: Final = "clear"
MUTE_S_MAX: Final = 86_400.0
MESSAGE_CHARACTERS_MAX: Final = 10_000


class FaultKind(StrEnum):
    """What can be broken."""

    KILL_SOCKETS = "kill_sockets"
    MUTE_SOCKETS = "mute_sockets"
    UNMUTE_SOCKETS = "unmute_sockets"
    EXPIRE_TOKENS = "expire_tokens"


_FIELDS: Final = {
    FaultKind.KILL_SOCKETS: frozenset({"fault", "user_id", "connection"}),
    FaultKind.MUTE_SOCKETS: frozenset({"fault", "user_id", "connection", "seconds"}),
    FaultKind.UNMUTE_SOCKETS: frozenset({"fault", "user_id", "connection"}),
    FaultKind.EXPIRE_TOKENS: frozenset({"fault", "user_id"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A checked request: what to break, for whom, for how long."""

    kind: FaultKind
    user_id: str | None
    connection: int | None
    seconds: float | None


class PanelRoutes:
    """Faults, messages and truth."""

    def __init__(
        self,
        feed: Feed,
        sessions: Sessions,
        history: TruthHistory,
        clock: Clock,
        updates: OrderUpdates,
        ledger: Ledger,
    ) -> None:
        self._feed = feed
        self._sessions = sessions
        self._history = history
        self._clock = clock
        self._updates = updates
        self._ledger = ledger

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [
            Route("/sim/truth", self._truth),
            Route("/sim/address", _address),
            Route("/sim/faults", self._active_faults, methods=["GET"]),
            Route("/sim/faults", self._inject_fault, methods=["POST"]),
            Route("/sim/faults", self._clear_faults, methods=["DELETE"]),
            Route("/sim/ledger", self._entries, methods=["GET"]),
            Route("/sim/sent", self._sent, methods=["GET"]),
            Route("/sim/message", self._message, methods=["POST"]),
        ]

    async def _truth(self, request: Request) -> Response:
        _check_loopback(request)
        return success(
            self._history.window(
                now_us=self._clock.now_ns() // NS_PER_US,
                from_us=_whole(request, "from_us", "µs since 1970"),
                to_us=_whole(request, "to_us", "µs since 1970"),
            )
        )

    async def _active_faults(self, request: Request) -> Response:
        _check_loopback(request)
        now_ns = self._clock.monotonic_ns()
        connections = list(self._feed.connections())
        return success(
            {
                "faults": [
                    {
                        "fault": FaultKind.MUTE_SOCKETS.value,
                        "connection": each.number,
                        "user_id": each.session.user.user_id,
                        "seconds_left": each.muted_for_s(now_ns),
                    }
                    for each in connections
                    if each.is_muted(now_ns)
                ]
                + self._updates.faults.active(),
                "connections": [
                    {
                        "connection": each.number,
                        "user_id": each.session.user.user_id,
                        "subscribed": len(each.subscription),
                    }
                    for each in connections
                ],
            }
        )

    async def _inject_fault(self, request: Request) -> Response:
        _check_loopback(request)
        fields = await requests.json_object(request)
        name = fields.get("fault")
        if name == CLEAR:
            return self._cleared()
        if isinstance(name, str) and name in frozenset(OrderFaultKind):
            user_id = self._checked_user(fields.get("user_id"))
            armed = self._updates.faults.arm(fields, user_id)
            return success(armed.describe(self._clock.monotonic_ns()))
        fault = self._checked(fields)
        return success({"fault": fault.kind.value, **self._inject(fault)})

    async def _clear_faults(self, request: Request) -> Response:
        _check_loopback(request)
        return self._cleared()

    def _cleared(self) -> Response:
        muted = [
            each for each in self._feed.connections() if each.is_muted(self._clock.monotonic_ns())
        ]
        for connection in muted:
            connection.mute_until(0)
        lifted = self._updates.faults.lift_all()
        self._updates.release()
        return success({"fault": CLEAR, "lifted": lifted + len(muted)})

    async def _entries(self, request: Request) -> Response:
        _check_loopback(request)
        after = _whole(request, "after", "the number of an entry") or 0
        entries = self._ledger.after(after)
        return success({"last": self._ledger.last_number, "entries": entries})

    async def _sent(self, request: Request) -> Response:
        _check_loopback(request)
        connection = _whole(request, "connection", "a number from GET /sim/faults")
        return success(
            {
                "connections": [
                    {
                        "connection": each.number,
                        "user_id": each.session.user.user_id,
                        "packets": each.sent_by_token(),
                    }
                    for each in self._feed.connections()
                    if connection in {None, each.number}
                ]
            }
        )

    async def _message(self, request: Request) -> Response:
        _check_loopback(request)
        fields = await requests.json_object(request)
        text = fields.get("message")
        if not isinstance(text, str) or not 0 < len(text) <= MESSAGE_CHARACTERS_MAX:
            raise KiteError.input(
                f"`message` must be a text of 1 to {MESSAGE_CHARACTERS_MAX} characters."
            )
        user_id = self._checked_user(fields.get("user_id"))
        reached = self._feed.broadcast_text("message", text, user_id=user_id)
        return success({"connections": reached})

    def _inject(self, fault: Fault) -> dict[str, int]:
        chosen = [each for each in self._feed.connections() if _matches(fault, each)]
        match fault.kind:
            case FaultKind.KILL_SOCKETS:
                for connection in chosen:
                    connection.abort()
            case FaultKind.MUTE_SOCKETS:
                until_ns = self._mute_end_ns(fault.seconds)
                for connection in chosen:
                    connection.mute_until(until_ns)
            case FaultKind.UNMUTE_SOCKETS:
                for connection in chosen:
                    connection.mute_until(0)
            case FaultKind.EXPIRE_TOKENS:
                tokens = self._sessions.expire_user(fault.user_id or "")
                self._feed.wake()
                return {"tokens": tokens, "connections": len(chosen)}
            case _:
                assert_never(fault.kind)
        return {"connections": len(chosen)}

    def _mute_end_ns(self, seconds: float | None) -> int | None:
        if seconds is None:
            return None
        return self._clock.monotonic_ns() + int(seconds * NS_PER_S)

    def _checked(self, fields: dict[str, object]) -> Fault:
        try:
            kind = FaultKind(str(fields.get("fault")))
        except ValueError:
            names = ", ".join([*FaultKind, *OrderFaultKind, CLEAR])
            raise KiteError.input(f"`fault` must be one of: {names}.") from None
        unknown = sorted(fields.keys() - _FIELDS[kind])
        if unknown:
            raise KiteError.input(f"Fault {kind} does not take: {', '.join(unknown)}.")
        user_id = self._checked_user(fields.get("user_id"))
        if kind is FaultKind.EXPIRE_TOKENS and user_id is None:
            raise KiteError.input("`user_id` says whose tokens to expire.")
        connection = fields.get("connection")
        if connection is not None and type(connection) is not int:
            raise KiteError.input("`connection` must be a number from GET /sim/faults.")
        seconds = _checked_seconds(fields.get("seconds"))
        return Fault(kind=kind, user_id=user_id, connection=connection, seconds=seconds)

    def _checked_user(self, user_id: object) -> str | None:
        if user_id is None:
            return None
        if not isinstance(user_id, str) or self._sessions.user(user_id) is None:
            raise KiteError.input("`user_id` is not a user of this simulator.")
        return user_id


def _matches(fault: Fault, connection: Connection) -> bool:
    return fault.user_id in {None, connection.session.user.user_id} and fault.connection in {
        None,
        connection.number,
    }


def _checked_seconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MUTE_S_MAX:
        raise KiteError.input(f"`seconds` must be a number above 0, at most {MUTE_S_MAX:g}.")
    return float(value)


def _whole(request: Request, name: str, meaning: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(2**62)):
        raise KiteError.input(f"`{name}` must be {meaning}, a whole number.")
    return int(text)


async def _address(request: Request) -> Response:
    """Answer with the caller's own address, as a probe of the way out does."""
    _check_loopback(request)
    return Response(request.client.host if request.client else "", media_type="text/plain")


def _check_loopback(request: Request) -> None:
    host = request.client.host if request.client else ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise KiteError.general(404, "Route not found")
