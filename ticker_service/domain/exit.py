"""Exits: what closes a position, what is sent next towards it, and when it is over. Pure.

An exit is a job whose parts are not known beforehand. Each look at the broker's position says how
much room there is to close it (`domain.closing`): nothing is sent beyond that, so whatever fills,
the position is never flipped. Orders are MARKET with a protection, which the broker turns into a
LIMIT at the end of its band and leaves open (kite.md §2.3); what rests is priced again as MARKET,
round the last price of that moment, as often as an order may be changed, and then cancelled and
sent anew. Where the broker takes no MARKET, it is a LIMIT at the end of the same band
(`domain.exit_price`). It is over when the broker says flat, or a person has to look.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.exit_price import AUTOMATIC_PROTECTION
from ticker_service.domain.job import CANCELS_MAX, came_to_the_broker, cancels_of, ending
from ticker_service.domain.order import (
    OrderChange,
    OrderRequest,
    OrderType,
    Product,
    TaskKind,
)
from ticker_service.domain.order_state import IN_DOUBT, LIVE, TERMINAL, UNSENT
from ticker_service.domain.order_state import TaskState as S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ticker_service.domain.closing import Closing
    from ticker_service.domain.exit_price import Edge
    from ticker_service.domain.order import OrderTask

REPRICE_S: Final = 5.0
"""An order that has not gone on for so long is priced again."""
AGAIN_S: Final = 1.0
"""So long nothing new is sent after an order of it ended."""
CHANGES_MAX: Final = 25
"""Kite's own number of changes of one order (kite.md §4)."""
SLICES_MAX: Final = 10
"""So many orders of one position are open at once at most."""
ORDERS_MAX: Final = 60
"""And so many it may take in all."""
REFUSALS_MAX: Final = 3
"""After so many orders that ended without a fill, a person has to look."""
WITHIN_S: Final = 300
WITHIN_S_MIN: Final = 10
WITHIN_S_MAX: Final = 6 * 3_600
COULD_NOT_CANCEL: Final = "COULD_NOT_CANCEL"
BAND_S: Final = 60.0
"""A LIMIT that has stood so long at the end of its band, with nothing coming, is for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """What a caller asks for.

    Attributes:
        exchange: Of the one position to close; empty for all of the account.
        tradingsymbol: Likewise.
        product: Likewise; empty for every product of the symbol.
        market_protection: Percent round the last price, -1 for Kite's own band.
        order_type: MARKET, which becomes LIMIT where the broker takes none; or LIMIT at once.
        cancel_resting: Whether whatever else rests on the positions is cancelled, by whomever
            placed.
        within_s: Seconds after which a person has to look.
    """

    exchange: str = ""
    tradingsymbol: str = ""
    product: str = ""
    market_protection: Decimal = AUTOMATIC_PROTECTION
    order_type: OrderType = OrderType.MARKET
    cancel_resting: bool = False
    within_s: int = WITHIN_S

    def means(self, exchange: str, tradingsymbol: str, product: str) -> bool:
        """Return whether a position is meant."""
        if not self.tradingsymbol:
            return True
        is_symbol = (self.exchange, self.tradingsymbol) == (exchange, tradingsymbol)
        return is_symbol and self.product in {"", product}


def body_of(wanted: Exit) -> dict[str, str]:
    """Return an exit as a form; :func:`exit_of` reads it."""
    form = {
        "market_protection": f"{wanted.market_protection:f}",
        "within_s": str(wanted.within_s),
    }
    named = {name: getattr(wanted, name) for name in ("exchange", "tradingsymbol", "product")}
    form |= {name: text for name, text in named.items() if text}
    form |= {"order_type": wanted.order_type} if wanted.order_type is not OrderType.MARKET else {}
    return form | ({"cancel_resting": "true"} if wanted.cancel_resting else {})


def exit_of(body: Mapping[str, str]) -> Exit:
    """Return the exit that :func:`body_of` wrote."""
    return Exit(
        exchange=body.get("exchange", ""),
        tradingsymbol=body.get("tradingsymbol", ""),
        product=body.get("product", ""),
        market_protection=Decimal(body["market_protection"]),
        order_type=OrderType(body.get("order_type", OrderType.MARKET)),
        cancel_resting="cancel_resting" in body,
        within_s=int(body["within_s"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LegView:
    """One position of an exit as it stands.

    Attributes:
        closing: What is held, and what is under way to close it, this exit's orders among it.
        is_flat: Whether the broker's positions and its fills both say so.
        lot_size: Orders are whole lots of it.
        largest: The most of one order; None for no limit that is known.
        is_beyond: Whether the exit's own orders may still fill more than is held: by other hands
            it went flat, smaller, or turned round.
        by_limit: Whether its orders are LIMIT, at ``edge``.
        edge: At what price; None if no last price is young enough, and then nothing is priced.
    """

    closing: Closing
    is_flat: bool
    lot_size: int = 1
    largest: int | None = None
    is_beyond: bool = False
    by_limit: bool = False
    edge: Edge | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LegMoves:
    """What is to be done about one position now.

    Attributes:
        place: Quantities of new orders on the closing side.
        change: Orders to price again.
        cancel: Orders to cancel.
        is_over: Nothing is held and nothing is open.
        stop: Why a person has to look, empty if not.
        stop_code: The same as a word.
    """

    place: tuple[int, ...] = ()
    change: tuple[OrderTask, ...] = ()
    cancel: tuple[OrderTask, ...] = ()
    is_over: bool = False
    stop: str = ""
    stop_code: str = ""


def leg_moves(view: LegView, children: Sequence[OrderTask], now_ns: int) -> LegMoves:
    """Return what to do about one position.

    Args:
        view: As it stands, read after the children.
        children: All that was asked for it in the exit's name.
        now_ns: Wall time, ns since the Unix epoch.
    """
    orders = _orders(children)
    stop = _stop(orders, children)
    if stop is not None:
        return stop
    is_open = [order for order in orders if order.state not in TERMINAL]
    if view.is_beyond:
        return _withdrawn([order for order in is_open if order.state in LIVE], children, now_ns)
    rests = [
        order
        for order in is_open
        if order.state in LIVE
        and not _is_touched(order, children)
        and _is_past(_last_ns(order, children), REPRICE_S, now_ns)
    ]
    moves = _of_what_rests(view, rests, children, now_ns)
    if moves is not None:
        return moves
    if any(order.state in UNSENT | IN_DOUBT for order in is_open):
        return LegMoves()  # it counts in full until it has settled
    if view.is_flat:
        return LegMoves(is_over=not is_open)
    return _sent_next(view, orders, now_ns)


def _withdrawn(rests: Sequence[OrderTask], children: Sequence[OrderTask], now_ns: int) -> LegMoves:
    """Return the cancels of what would turn a position round (I19); nothing else helps there."""
    ends = ending(rests, children, now_ns)
    if ends.is_stuck:
        return LegMoves(stop=ends.why, stop_code=COULD_NOT_CANCEL)
    return LegMoves(cancel=ends.cancel)


def _of_what_rests(
    view: LegView, rests: Sequence[OrderTask], children: Sequence[OrderTask], now_ns: int
) -> LegMoves | None:
    """Return what to do about orders that have not gone on, None to leave them as they are."""
    if view.by_limit:
        standing = [order for order in rests if _stands_at(view.edge, order, children)]
        for order in standing:
            if _is_past(_last_ns(order, children), BAND_S, now_ns):
                why = f"{order.client_order_id} has stood for {BAND_S:g} s at {view.edge}"
                return LegMoves(stop=why, stop_code="BAND_EXHAUSTED")
        rests = [order for order in rests if view.edge is not None and order not in standing]
    if not rests:
        return None
    worn = [order for order in rests if _is_worn(order, children)]
    change = [order for order in rests if order not in worn]
    return LegMoves(change=tuple(change), cancel=tuple(worn))


def _sent_next(view: LegView, orders: Sequence[OrderTask], now_ns: int) -> LegMoves:
    """Return the orders to send for what nothing is under way to close."""
    has_ended = [order for order in orders if order.state in TERMINAL]
    ended_ns = max((order.updated_at_ns for order in has_ended), default=0)
    if not _is_past(ended_ns, AGAIN_S, now_ns):
        return LegMoves()
    held = abs(view.closing.quantity)
    if view.closing.room == held and 0 < held < view.lot_size:
        why = f"{held} is left of a lot of {view.lot_size}, and no order can close it"
        return LegMoves(stop=why, stop_code="LESS_THAN_A_LOT")
    if view.by_limit and view.edge is None:
        return LegMoves()
    left = SLICES_MAX - (len(orders) - len(has_ended))
    place = cut(view.closing.room, lot_size=view.lot_size, largest=view.largest)[: max(left, 0)]
    if place and len(orders) + len(place) > ORDERS_MAX:
        why = f"{len(orders)} orders were sent and {view.closing.quantity} is still held"
        return LegMoves(stop=why, stop_code="TOO_MANY_ORDERS")
    return LegMoves(place=tuple(place))


def ending_moves(children: Sequence[OrderTask], now_ns: int) -> LegMoves:
    """Return what to do about one position once nothing more is to be sent for it."""
    open_orders = [order for order in _orders(children) if order.state not in TERMINAL]
    ends = ending(open_orders, children, now_ns)
    if ends.is_stuck:
        return LegMoves(stop=ends.why, stop_code=COULD_NOT_CANCEL)
    return LegMoves(cancel=ends.cancel, is_over=not open_orders)


def cut(quantity: int, *, lot_size: int, largest: int | None) -> list[int]:
    """Return a quantity in orders of whole lots, none above the largest; less than a lot is left.

    As few as can be, and as equal as whole lots allow.
    """
    lots = quantity // max(lot_size, 1)
    if not lots:
        return []
    lots_max = lots if largest is None else max(largest // max(lot_size, 1), 1)
    count = -(-lots // lots_max)
    each, more = divmod(lots, count)
    return [(each + (number < more)) * max(lot_size, 1) for number in range(count)]


def order_for(view: LegView, quantity: int, protection: Decimal) -> OrderRequest:
    """Return the order that closes so much of a position.

    Raises:
        ValueError: Nothing closes it.
    """
    key, side = view.closing.key, view.closing.side
    if side is None:
        raise ValueError(f"nothing closes {':'.join(key)} of {view.closing.quantity}")
    priced = repricing(view, protection)
    return OrderRequest(
        exchange=key.exchange,
        tradingsymbol=key.tradingsymbol,
        transaction_type=side,
        order_type=priced.order_type or OrderType.MARKET,
        product=Product(key.product),
        quantity=quantity,
        price=priced.price,
        market_protection=priced.market_protection,
    )


def repricing(view: LegView, protection: Decimal) -> OrderChange:
    """Return the change that prices an order again, round the last price of that moment.

    Raises:
        ValueError: It is to be a LIMIT, and its price is not known.
    """
    if not view.by_limit:
        return OrderChange(order_type=OrderType.MARKET, market_protection=protection)
    if view.edge is None:
        raise ValueError(f"no price for a LIMIT that closes {':'.join(view.closing.key)}")
    return OrderChange(order_type=OrderType.LIMIT, price=view.edge.price)


def market_was_refused(children: Sequence[OrderTask]) -> bool:
    """Return whether the broker refused a MARKET order of a position.

    Whatever its words: a LIMIT at the same price risks no more, and is refused likewise where the
    type was not the reason.
    """
    return any(
        order.state is S.REJECTED and order.body.get("order_type") == OrderType.MARKET
        for order in _orders(children)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LegEvidence:
    """What came of one position: all that a person needs who has to look."""

    key: str
    held: int
    is_flat: bool
    filled: int
    orders: int
    changes: int
    rests: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    others: int = 0
    """What orders of others may still close of it."""
    limit: str = ""
    """At what price it was sent as LIMIT, if it was."""


def evidence(view: LegView, children: Sequence[OrderTask]) -> LegEvidence:
    """Return what came of one position so far."""
    orders = _orders(children)
    refused = [order for order in orders if _is_refused(order)]
    own = sum(
        int(order.body["quantity"]) - order.filled_quantity
        for order in orders
        if order.state not in TERMINAL
    )
    return LegEvidence(
        key=":".join(view.closing.key),
        held=view.closing.quantity,
        is_flat=view.is_flat,
        filled=sum(order.filled_quantity for order in orders),
        orders=len(orders),
        changes=sum(child.kind is TaskKind.MODIFY for child in children),
        rests={o.client_order_id: o.state.value for o in orders if o.state not in TERMINAL},
        refused=_said(refused[-1]) if refused else "",
        others=max(view.closing.under_way - own, 0),
        limit=str(view.edge or "no price for it") if view.by_limit else "",
    )


def _orders(children: Sequence[OrderTask]) -> list[OrderTask]:
    placed = [child for child in children if child.kind is TaskKind.PLACE]
    return sorted(placed, key=lambda order: order.slice or 0)


def _of(order: OrderTask, children: Sequence[OrderTask], kind: TaskKind) -> list[OrderTask]:
    return [
        child for child in children if child.kind is kind and child.target_task_id == order.task_id
    ]


def _stop(orders: Sequence[OrderTask], children: Sequence[OrderTask]) -> LegMoves | None:
    for order in orders:
        if order.state is S.MANUAL:
            why = f"what became of {order.client_order_id} is not known; look at the broker"
            return LegMoves(stop=why, stop_code="ORDER_UNKNOWN")
        cancels = came_to_the_broker(cancels_of(order, children))
        if len(cancels) > CANCELS_MAX and order.state in LIVE:
            why = f"{order.client_order_id} stands after {CANCELS_MAX} cancels"
            return LegMoves(stop=why, stop_code=COULD_NOT_CANCEL)
    refused = [order for order in orders if _is_refused(order)]
    if len(refused) >= REFUSALS_MAX:
        why = f"{len(refused)} orders ended without a fill; the last: {_said(refused[-1])}"
        return LegMoves(stop=why, stop_code="REFUSED")
    return None


def _is_refused(order: OrderTask) -> bool:
    """Return whether an order ended as good as unsent; one that we cancelled rested before.

    One whose time ended before it found room speaks of us, not of the order: it is sent again until
    the exit's own time is over.
    """
    ends = {S.REJECTED, S.REJECTED_LOCAL, S.NOT_PLACED, S.CANCELLED_LOCAL}
    return order.state in ends and not order.filled_quantity


def _said(order: OrderTask) -> str:
    return f"{order.state}: {order.reason or order.reason_code or 'no reason given'}"


def _is_done(child: OrderTask) -> bool:
    """Return whether a change or a cancel has ended."""
    return child.state in TERMINAL or child.state is S.ACKED


def _is_touched(order: OrderTask, children: Sequence[OrderTask]) -> bool:
    """Return whether a change or a cancel of an order is under way."""
    return any(child.target_task_id == order.task_id and not _is_done(child) for child in children)


def _is_worn(order: OrderTask, children: Sequence[OrderTask]) -> bool:
    """Return whether an order cannot be priced again: too often, or the last time was refused."""
    changes = _of(order, children, TaskKind.MODIFY)
    newest = max(changes, key=lambda child: child.created_at_ns, default=None)
    is_refused = newest is not None and newest.state in TERMINAL
    return len(changes) >= CHANGES_MAX or is_refused


def _stands_at(edge: Edge | None, order: OrderTask, children: Sequence[OrderTask]) -> bool:
    """Return whether an order has the price that it would be given."""
    accepted = [c for c in _of(order, children, TaskKind.MODIFY) if c.state is S.ACKED]
    newest = max(accepted, key=lambda child: child.created_at_ns, default=order)
    price = newest.body.get("price")
    return edge is not None and price is not None and Decimal(price) == edge.price


def _last_ns(order: OrderTask, children: Sequence[OrderTask]) -> int:
    """Return when something was last heard or asked of an order."""
    about = [child.updated_at_ns for child in children if child.target_task_id == order.task_id]
    return max([order.updated_at_ns, *about])


def _is_past(then_ns: int, seconds: float, now_ns: int) -> bool:
    """Return whether so long has passed; a clock that was set back must not hold it up."""
    return not 0 <= now_ns - then_ns < int(seconds * NS_PER_S)
