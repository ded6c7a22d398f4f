"""How every request to the order side goes: received, admitted, done, written down, answered.

Path of a change: credentials → rates → [rules → margins → exchange] → ledger → answer, the part in
brackets given by the route. An armed fault strikes before that part or at the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ticker_service.constants import NS_PER_S
from ticker_service.simulator import order_answers, order_faults, requests
from ticker_service.simulator.envelope import KiteError, success
from ticker_service.simulator.ledger import EntryKind
from ticker_service.simulator.order_faults import (
    ANSWER_KINDS,
    REQUEST_KINDS,
    Method,
    OrderFault,
    OrderFaultKind,
)
from ticker_service.simulator.request_rates import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from ticker_service.simulator.ledger import Ledger
    from ticker_service.simulator.order import Order
    from ticker_service.simulator.order_answers import OrderAnswers
    from ticker_service.simulator.order_faults import OrderFaults
    from ticker_service.simulator.order_rates import OrderRates
    from ticker_service.simulator.request_rates import RequestRates
    from ticker_service.simulator.sessions import Sessions

    Act = Callable[[str, Mapping[str, str], OrderFault | None], tuple[Order, object]]
    Look = Callable[[str], object]

BEFORE_ACCEPT: Final = frozenset(
    {
        OrderFaultKind.REJECT_5XX_BEFORE_ACCEPT,
        OrderFaultKind.HTTP_429,
        OrderFaultKind.REFUSE_4XX,
    }
)


@dataclass(slots=True)
class _Visit:
    """What is known so far of one request."""

    request: Request
    method: Method
    fields: Mapping[str, str]
    number: int = 0
    order_id: str | None = None
    user_id: str | None = None


class OrderDesk:
    """Takes the requests of all order and portfolio routes."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        rates: RequestRates,
        order_rates: OrderRates,
        ledger: Ledger,
        faults: OrderFaults,
        answers: OrderAnswers,
    ) -> None:
        self.faults = faults
        self._sessions = sessions
        self._rates = rates
        self._order_rates = order_rates
        self._ledger = ledger
        self._answers = answers

    async def change(self, request: Request, method: Method, act: Act) -> Response:
        """Let a request place, modify or cancel, and answer it.

        Args:
            request: As it came.
            method: What it is for.
            act: Does it, given user_id, fields and the fault that will strike the answer; returns
                the order and what the good answer says.
        """
        malformed: KiteError | None = None
        fields: Mapping[str, str] = {}
        try:
            fields = await _fields(request, method)
        except KiteError as error:
            malformed = error
        except ClientDisconnect:
            return Response()  # Its bytes never came in whole, and nobody waits for an answer.
        visit = self._received(request, method, fields)
        try:
            user_id = self._admit(visit)
            if malformed is not None:
                raise malformed
            await self._wait_on_the_way(user_id, method)
            fault = self.faults.find(ANSWER_KINDS, user_id, method)
            if fault is not None and (fault.kind in BEFORE_ACCEPT or not fault.accept):
                order_faults.use(fault)
                self._refused(visit, fault.kind.value)
                return await self._answer(visit, Response(), fault)
            order, said = act(user_id, fields, fault)
        except KiteError as error:
            self._refused(visit, error.message)
            return await self._answer(visit, error.response(), None)
        if fault is not None:
            order_faults.use(fault)
        visit.order_id = order.order_id
        return await self._answer(visit, success(said), fault)

    async def look(self, request: Request, look: Look) -> Response:
        """Answer a request that only reads, with what ``look`` says for its user_id."""
        visit = self._received(request, Method.READ, {})
        try:
            user_id = self._admit(visit)
            fault = self.faults.find(ANSWER_KINDS, user_id, Method.READ)
            good = success(look(user_id))
        except KiteError as error:
            return await self._answer(visit, error.response(), None)
        if fault is not None:
            order_faults.use(fault)
        return await self._answer(visit, good, fault)

    async def _wait_on_the_way(self, user_id: str, method: Method) -> None:
        """Take a request up later than it came, whether its client still waits or not."""
        late = self.faults.find(REQUEST_KINDS, user_id, method)
        if late is not None:
            order_faults.use(late)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(late.delay_ns / NS_PER_S):
                    await late.lifted.wait()

    def _received(self, request: Request, method: Method, fields: Mapping[str, str]) -> _Visit:
        visit = _Visit(
            request,
            method,
            fields,
            order_id=request.path_params.get("order_id"),
            user_id=self._claimed_user_id(request),
        )
        visit.number = self._ledger.append(
            EntryKind.RECEIVED,
            user_id=visit.user_id,
            order_id=visit.order_id,
            tag=fields.get("tag") or None,
            method=method.value,
            path=request.url.path,
            fields=dict(fields),
        )
        return visit

    def _claimed_user_id(self, request: Request) -> str | None:
        try:
            return self._sessions.authorised(*requests.credentials(request)).user.user_id
        except KiteError:
            return None

    def _admit(self, visit: _Visit) -> str:
        api_key, access_token = requests.credentials(visit.request)
        if visit.method is Method.READ:
            self._rates.admit(api_key, Bucket.OTHER)
        user_id = self._sessions.authorised(api_key, access_token).user.user_id
        if visit.method is not Method.READ:
            self._order_rates.admit(user_id, places=visit.method is Method.PLACE)
        return user_id

    def _refused(self, visit: _Visit, reason: str) -> None:
        self._ledger.append(
            EntryKind.REFUSED,
            user_id=visit.user_id,
            order_id=visit.order_id,
            tag=visit.fields.get("tag") or None,
            method=visit.method.value,
            request=visit.number,
            reason=reason,
        )

    async def _answer(self, visit: _Visit, good: Response, fault: OrderFault | None) -> Response:
        """Write down what the client will be told, and tell it."""
        if fault is None:
            self._answered(visit, good.status_code, None)
            return good
        if fault.kind in order_answers.SLOW:
            withheld = fault.kind is not OrderFaultKind.DRIBBLE
            self._answered(visit, None if withheld else good.status_code, fault)
            return await self._answers.slow(visit.request, fault, good)
        wrong = order_answers.at_once(visit.request, fault)
        self._answered(visit, wrong.status_code, fault)
        return wrong

    def _answered(self, visit: _Visit, status_code: int | None, fault: OrderFault | None) -> None:
        self._ledger.append(
            EntryKind.ANSWERED,
            user_id=visit.user_id,
            order_id=visit.order_id,
            tag=visit.fields.get("tag") or None,
            method=visit.method.value,
            request=visit.number,
            status_code=status_code,
            withheld=status_code is None,
            fault=fault.kind.value if fault else None,
        )


async def _fields(request: Request, method: Method) -> Mapping[str, str]:
    if method is Method.CANCEL:
        return dict(request.query_params)
    return await requests.form(request)
