"""Order routes: place, modify, cancel, the books, what orders would need (kite.md §2.2-2.8)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from ticker_service.simulator import margins, order_faults, order_rows, requests
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.order import Handling
from ticker_service.simulator.order_faults import PLACE_KINDS, Method, OrderFaultKind
from ticker_service.simulator.order_rules import check_variety

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.exchange import Exchange
    from ticker_service.simulator.market import Market
    from ticker_service.simulator.order import Order, OrderTerms
    from ticker_service.simulator.order_desk import OrderDesk
    from ticker_service.simulator.order_faults import OrderFault
    from ticker_service.simulator.order_rules import OrderRules

    _Done = tuple[Order, object]

REJECTED_AT_EXCHANGE: Final = "16387 : Security is not allowed to trade in this market"
_TRUNCATED: Final = frozenset({OrderFaultKind.TRUNCATED_BOOK})
_NULL_TAGS: Final = frozenset({OrderFaultKind.NULL_TAGS})
_STALE: Final = frozenset({OrderFaultKind.STALE_BOOK})
_OMIT_SLICE: Final = frozenset({OrderFaultKind.OMIT_SLICE})
_REFUSE_SLICE: Final = frozenset({OrderFaultKind.REFUSE_SLICE})


class OrderRoutes:
    """Kite's order API over the exchange."""

    def __init__(
        self,
        market: Market,
        exchange: Exchange,
        rules: OrderRules,
        desk: OrderDesk,
        clock: Clock,
        *,
        is_slice_list: bool = False,
    ) -> None:
        self._market = market
        self._exchange = exchange
        self._rules = rules
        self._desk = desk
        self._clock = clock
        self._is_slice_list = is_slice_list
        # Each user's book as it was when a fault first made it stale, with the fault's number.
        self._stale: dict[str, tuple[int, list[dict[str, object]]]] = {}

    def routes(self) -> list[Route]:
        """Return the routes to mount at the REST root."""
        return [
            Route("/orders", self._orders, methods=["GET"]),
            Route("/trades", self._trades, methods=["GET"]),
            Route("/orders/{order_id}/trades", self._order_trades, methods=["GET"]),
            Route("/orders/{order_id}", self._history, methods=["GET"]),
            Route("/orders/{variety}", self._place, methods=["POST"]),
            Route("/margins/orders", self._margins, methods=["POST"]),
            Route("/orders/{variety}/{order_id}", self._modify, methods=["PUT"]),
            Route("/orders/{variety}/{order_id}", self._cancel, methods=["DELETE"]),
        ]

    async def _place(self, request: Request) -> Response:
        def act(user_id: str, fields: Mapping[str, str], answer: OrderFault | None) -> _Done:
            first, *rest = self._rules.sliced(request.path_params["variety"], fields)
            fault = self._desk.faults.find(PLACE_KINDS, user_id)
            order = self._exchange.place(user_id, first, _handling(fault, answer))
            if fault is not None:
                order_faults.use(fault)
            if not rest:
                return order, {"order_id": order.order_id}
            return order, self._slices(user_id, order, rest)

        return await self._desk.change(request, Method.PLACE, act)

    def _slices(self, user_id: str, first: Order, rest: list[OrderTerms]) -> object:
        """Place the other slices, each by itself, and return what is said of all of them."""
        children: list[dict[str, object]] = []
        for terms in rest:
            try:
                if self._desk.faults.take(_REFUSE_SLICE, user_id):
                    raise KiteError.margin("Insufficient funds.")
                placed = self._exchange.place(user_id, terms)
            except KiteError as error:
                children.append({"error": error.of_slice()})
            else:
                if not self._desk.faults.take(_OMIT_SLICE, user_id):
                    children.append({"order_id": placed.order_id})
        if self._is_slice_list:
            return [{"order_id": first.order_id}, *children]
        return {"order_id": first.order_id, "children": children}

    async def _modify(self, request: Request) -> Response:
        def act(user_id: str, fields: Mapping[str, str], _: OrderFault | None) -> _Done:
            order = self._named(request, user_id, fields)
            # A terminal order is refused as such, whatever was asked of it.
            terms = order.asked if order.is_terminal else self._rules.modified(order.asked, fields)
            self._exchange.modify(order, terms)
            return order, {"order_id": order.order_id}

        return await self._desk.change(request, Method.MODIFY, act)

    async def _cancel(self, request: Request) -> Response:
        def act(user_id: str, fields: Mapping[str, str], _: OrderFault | None) -> _Done:
            order = self._named(request, user_id, fields)
            if order.parent_order_id is None:
                self._exchange.cancel(order)
            else:
                self._exchange.close_cover(order)
            return order, {"order_id": order.order_id}

        return await self._desk.change(request, Method.CANCEL, act)

    async def _orders(self, request: Request) -> Response:
        return await self._desk.look(request, self._book)

    async def _history(self, request: Request) -> Response:
        order_id = request.path_params["order_id"]
        return await self._desk.look(
            request, lambda user_id: self._exchange.order(user_id, order_id).history
        )

    async def _trades(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            trades = self._exchange.account(user_id).trades
            return [order_rows.trade_row(self._market, each) for each in trades]

        return await self._desk.look(request, look)

    async def _order_trades(self, request: Request) -> Response:
        def look(user_id: str) -> object:
            trades = self._exchange.order(user_id, request.path_params["order_id"]).trades
            return [order_rows.trade_row(self._market, each) for each in trades]

        return await self._desk.look(request, look)

    async def _margins(self, request: Request) -> Response:
        malformed: KiteError | None = None
        asked: list[dict[str, object]] = []
        try:
            asked = await requests.json_objects(request)
        except KiteError as error:
            malformed = error
        except ClientDisconnect:
            return Response()  # Its bytes never came in whole, and nobody waits for an answer.

        def look(user_id: str) -> object:
            if malformed is not None:
                raise malformed
            account = self._exchange.account(user_id)
            orders = [self._rules.weighed(each) for each in asked]
            return [margins.order_row(self._market, account, each) for each in orders]

        return await self._desk.look(request, look)

    def _named(self, request: Request, user_id: str, fields: Mapping[str, str]) -> Order:
        check_variety(request.path_params["variety"])
        order = self._exchange.order(user_id, request.path_params["order_id"])
        if request.path_params["variety"] != order.route:
            raise KiteError.input("Invalid `variety`.")
        if (fields.get("parent_order_id") or None) != order.parent_order_id:
            raise KiteError.input("Invalid `parent_order_id`.")
        return order

    def _book(self, user_id: str) -> list[dict[str, object]]:
        """Return the order book, latest state per order, as armed faults let it be seen."""
        orders = self._exchange.account(user_id).orders.values()
        now_ns = self._clock.monotonic_ns()
        rows = [
            each.history[-1] for each in orders if each.history and now_ns >= each.visible_at_ns
        ]
        stale = self._desk.faults.take(_STALE, user_id)
        if stale is not None:
            number, kept = self._stale.get(user_id, (0, rows))
            rows = kept if number == stale.number else rows
            self._stale[user_id] = (stale.number, rows)
        truncated = self._desk.faults.take(_TRUNCATED, user_id)
        if truncated is not None:
            rows = rows[: truncated.keep]
        if self._desk.faults.take(_NULL_TAGS, user_id):
            rows = [{**row, "tag": None, "tags": []} for row in rows]
        return rows


def _handling(fault: OrderFault | None, answer: OrderFault | None) -> Handling:
    """Return what the faults of an order, and of the answer to it, do to the order."""
    handling = Handling()
    if answer is not None and answer.kind is OrderFaultKind.ACCEPT_THEN_400_TIMEOUT:
        handling = Handling(start_after_ns=answer.delay_ns)
    if fault is None:
        return handling
    changes: dict[OrderFaultKind, dict[str, Any]] = {
        OrderFaultKind.LATE_IN_BOOK: {"visible_after_ns": fault.delay_ns},
        OrderFaultKind.SLOW_STATES: {"state_ns": fault.delay_ns},
        OrderFaultKind.PARTIAL_FILLS: {"part": fault.part},
        OrderFaultKind.FILL_AFTER_CANCEL: {"fill_after_cancel_ns": fault.delay_ns},
        OrderFaultKind.REJECT_AT_EXCHANGE: {"refusal": fault.message or REJECTED_AT_EXCHANGE},
    }
    return dataclasses.replace(handling, **changes[fault.kind])
