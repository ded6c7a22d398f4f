"""The exchange: orders pass through Kite's states, rest, trade against the quotes and end.

Path: rules → margins → [exchange] → ledger, books and order updates. Deterministic: what happens
follows from the market, the clock and the sequence of calls. Every change of state is an entry in a
queue by due time; ``advance`` works off what is due, so a clock that stands still holds every order
where it is.

Resting orders of different users do not meet each other: everything trades against the quotes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.domain import session
from ticker_service.simulator import legs, margins, matching, order_rows
from ticker_service.simulator.accounts import Account
from ticker_service.simulator.envelope import KiteError
from ticker_service.simulator.ledger import EntryKind
from ticker_service.simulator.order import (
    Cancel,
    Handling,
    Modify,
    Order,
    OrderTerms,
    OrderType,
    Side,
    Status,
    Trade,
    Validity,
    Variety,
)
from ticker_service.simulator.order_numbers import OrderNumbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ticker_service.runtime.clock import Clock
    from ticker_service.simulator.ledger import Ledger
    from ticker_service.simulator.market import Changes, Market
    from ticker_service.simulator.options import SimulatorOptions

    Step = Callable[[Order, int], None]
    Publish = Callable[[str, dict[str, object]], None]

AS_USUAL: Final = Handling()
NS_PER_MINUTE: Final = 60 * NS_PER_S

BEING_PROCESSED: Final = "Order cannot be {} as it is being processed. Try later."
TOO_MANY_MODIFICATIONS: Final = "Maximum allowed order modifications exceeded."
NO_ORDER: Final = "Couldn't find that `order_id`."
OUTSIDE_RANGE: Final = "16283 : The order price is out of the current execution range"


class Exchange:
    """Every account's orders against the one market.

    Args:
        market: What is quoted.
        clock: Wall time for stamps, monotonic time for what is due.
        ledger: Where states and trades are written down.
        options: Seed, cash and the time spent in each interim state.
        publish: Called with a user_id and the data of an order update.

    Attributes:
        woken: Set when something new has a time at which it is due.
    """

    def __init__(
        self,
        market: Market,
        clock: Clock,
        ledger: Ledger,
        options: SimulatorOptions,
        publish: Publish,
    ) -> None:
        self._market = market
        self._clock = clock
        self._ledger = ledger
        self._options = options
        self._publish = publish
        self.woken = asyncio.Event()
        self.on_leg: Callable[[str], None] = lambda _: None
        """Told of whose iceberg another leg is placed: Kite counts it for the day (kite.md §4)."""
        self._state_ns = int(options.order_state_ms * NS_PER_MS)
        self._amo_rest_ns = int(options.amo_rest_s * NS_PER_S)
        self._accounts: dict[str, Account] = {}
        self._day = session.ist_date(clock.now_ns())
        self._due: list[tuple[int, int, Order, Step]] = []
        self._scheduled = itertools.count()
        self._numbers = OrderNumbers(options.seed)
        self._taken = matching.DepthTaken()
        self._resting: dict[int, dict[str, Order]] = {}

    def account(self, user_id: str) -> Account:
        """Return a user's account as of now."""
        self.advance()
        if user_id not in self._accounts:
            cash_inr = self._options.cash_inr
            self._accounts[user_id] = Account(user_id, self._market, cash_inr=cash_inr)
        return self._accounts[user_id]

    def order(self, user_id: str, order_id: str) -> Order:
        """Return an order that the user's broker has.

        Raises:
            KiteError: There is none of that id.
        """
        found = self.account(user_id).orders.get(order_id)
        if found is None or found.status is None:
            raise KiteError.general(404, NO_ORDER)
        return found

    def place(self, user_id: str, terms: OrderTerms, handling: Handling = AS_USUAL) -> Order:
        """Accept an order.

        Args:
            user_id: Whose order it is.
            terms: Checked by the rules.
            handling: What is to go slowly or wrong with it.

        Raises:
            KiteError: Funds or holdings do not suffice.
        """
        account = self.account(user_id)
        margins.check(self._market, account, terms)
        order = self._new(account, terms, handling)
        self.advance()
        return order

    def _new(
        self,
        account: Account,
        terms: OrderTerms,
        handling: Handling,
        *,
        parent_order_id: str | None = None,
    ) -> Order:
        now_ns = self._clock.monotonic_ns()
        order_id, guid = self._numbers.order(self._day)
        order = Order(
            user_id=account.user_id,
            order_id=order_id,
            guid=guid,
            terms=terms,
            asked=terms,
            placed_ns=self._clock.now_ns(),
            visible_at_ns=now_ns + max(handling.start_after_ns, handling.visible_after_ns),
            state_ns=self._state_ns if handling.state_ns is None else handling.state_ns,
            refusal=handling.refusal,
            part=handling.part,
            fill_after_cancel_ns=handling.fill_after_cancel_ns,
            awaits_session=terms.variety is Variety.AMO,
            parent_order_id=parent_order_id,
        )
        account.orders[order.order_id] = order
        account.working[order.order_id] = order
        margins.block(self._market, account, order)
        whose = {"parent_order_id": parent_order_id, "leg": terms.leg, "legs": terms.legs}
        self._note(EntryKind.ACCEPTED, order, method="place", **whose)
        self._schedule(now_ns + handling.start_after_ns, order, self._receive)
        return order

    def modify(self, order: Order, terms: OrderTerms) -> None:
        """Accept a change of an order; it takes effect after the states before it.

        Raises:
            KiteError: It can no longer be changed, or the account cannot bear the new terms.
        """
        if order.is_terminal:
            raise KiteError.input(BEING_PROCESSED.format("modified"))
        if order.modifications >= self._options.modifications_max:
            raise KiteError.cap(TOO_MANY_MODIFICATIONS)
        if terms.quantity <= order.filled_quantity:
            raise KiteError.input("Quantity cannot be less than or equal to what is filled.")
        account = self.account(order.user_id)
        margins.check(self._market, account, terms, without=order.order_id)
        order.modifications += 1
        order.asked = terms
        margins.block(self._market, account, order)
        self._note(EntryKind.ACCEPTED, order, method="modify")
        self._wait(order, Modify(terms=terms))

    def cancel(self, order: Order) -> None:
        """Accept a cancellation; it takes effect after the states before it.

        Raises:
            KiteError: The order has ended.
        """
        if order.is_terminal:
            raise KiteError.input(BEING_PROCESSED.format("cancelled"))
        self._note(EntryKind.ACCEPTED, order, method="cancel")
        self._wait(order, Cancel())

    def close_cover(self, order: Order) -> None:
        """Let a cover order's second leg close the position now, at the end of the band.

        Raises:
            KiteError: It has ended.
        """
        if order.is_terminal:
            raise KiteError.input(BEING_PROCESSED.format("exited"))
        self._note(EntryKind.ACCEPTED, order, method="cancel")
        band_raw = matching.band_raw(self._market, order.terms, matching.AUTOMATIC_STOP)
        order.asked = legs.closing(order, band_raw)
        self._wait(order, Modify(terms=order.asked))

    def advance(self) -> None:
        """Let happen what is due by now."""
        now_ns = self._clock.monotonic_ns()
        self._start_day()
        while self._due and self._due[0][0] <= now_ns:
            due_ns, _, order, step = heapq.heappop(self._due)
            if not order.is_terminal or step == self._fill_cancelled:
                step(order, due_ns)

    def next_due_ns(self) -> int | None:
        """Return the monotonic instant of the next change of state, or None."""
        return self._due[0][0] if self._due else None

    def note(self, changes: Changes) -> None:
        """Take over a step of the market: new quotes trigger stops and reach resting orders."""
        self.advance()
        for row in changes.rows.tolist():
            self._taken.forget(row)
            resting = self._resting.get(row)
            if resting:
                for order in sorted(resting.values(), key=_priority):
                    self._react(order)

    def _start_day(self) -> None:
        today = session.ist_date(self._clock.now_ns())
        if today != self._day:
            # Kite's books are of one day; a new one begins with new books and the same cash.
            self._day = today
            self._accounts.clear()
            self._resting.clear()
            self._due.clear()

    def _schedule(self, due_ns: int, order: Order, step: Step) -> None:
        heapq.heappush(self._due, (due_ns, next(self._scheduled), order, step))
        self.woken.set()

    def _wait(self, order: Order, request: Modify | Cancel) -> None:
        order.waiting.append(request)
        if not order.is_busy:
            self._next_request(order, self._clock.monotonic_ns())
        self.advance()

    def _next_request(self, order: Order, due_ns: int) -> None:
        """Begin the oldest waiting request, unless the order has ended meanwhile."""
        order.is_busy = bool(order.waiting) and not order.is_terminal
        if order.is_busy:
            cancels = isinstance(order.waiting[0], Cancel)
            self._schedule(due_ns, order, self._cancel_pending if cancels else self._modify_asked)

    # Placing.

    def _receive(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.RECEIVED)
        self._schedule(due_ns + order.state_ns, order, self._validate)

    def _validate(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.VALIDATION_PENDING)
        step = self._keep_for_session if order.awaits_session else self._send
        self._schedule(due_ns + order.state_ns, order, step)

    def _keep_for_session(self, order: Order, due_ns: int) -> None:
        self._schedule(due_ns + self._amo_rest_ns, order, self._open_session)
        self._keep_on(order, due_ns)

    def _keep_on(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.AMO_RECEIVED)
        self._next_request(order, due_ns)

    def _open_session(self, order: Order, due_ns: int) -> None:
        order.awaits_session = False
        if not order.is_busy:  # else the end of what is under way sends it
            order.is_busy = True
            self._send(order, due_ns)

    def _send(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.OPEN_PENDING)
        self._schedule(due_ns + order.state_ns, order, self._arrive)

    def _arrive(self, order: Order, due_ns: int) -> None:
        in_range = matching.is_in_execution_range(self._market, order.terms)
        order.status_message = order.refusal or (None if in_range else OUTSIDE_RANGE)
        if order.status_message:
            self._end(order, Status.REJECTED)
            return
        order.exchange_order_id = self._numbers.exchange_order_id()
        order.exchange_ns = self._clock.now_ns()
        lifetime_ns = order.terms.validity_ttl * NS_PER_MINUTE
        if lifetime_ns:
            self._schedule(due_ns + lifetime_ns, order, self._outlive)
        self._rest(order, due_ns)

    def _outlive(self, order: Order, due_ns: int) -> None:
        if order.terms.validity is Validity.TTL:
            self._cancelled(order, due_ns)

    # Changing.

    def _modify_asked(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.MODIFY_VALIDATION_PENDING)
        self._schedule(due_ns + order.state_ns, order, self._modify_sent)

    def _modify_sent(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.MODIFY_PENDING)
        self._schedule(due_ns + order.state_ns, order, self._modify_done)

    def _modify_done(self, order: Order, due_ns: int) -> None:
        request = order.waiting.popleft()
        if isinstance(request, Modify) and request.terms.quantity > order.filled_quantity:
            # A stop that was triggered meanwhile keeps the limit it got.
            price_raw = request.terms.price_raw or order.terms.price_raw
            order.terms = dataclasses.replace(request.terms, price_raw=price_raw)
            order.is_modified = True
            self._enter(order, Status.MODIFIED)
            self._send_update(order, Status.UPDATE)
        # Else fills have overtaken a smaller quantity, and the exchange leaves the order as it was.
        if order.exchange_order_id is not None:
            self._rest(order, due_ns)
        elif order.awaits_session:
            self._keep_on(order, due_ns)
        else:
            self._send(order, due_ns)

    def _cancel_pending(self, order: Order, due_ns: int) -> None:
        self._enter(order, Status.CANCEL_PENDING)
        self._schedule(due_ns + order.state_ns, order, self._cancelled)

    def _cancelled(self, order: Order, due_ns: int) -> None:
        order.cancelled_quantity = order.open_quantity
        self._end(order, Status.CANCELLED)
        if order.fill_after_cancel_ns is not None and order.exchange_order_id is not None:
            self._schedule(due_ns + order.fill_after_cancel_ns, order, self._fill_cancelled)

    def _fill_cancelled(self, order: Order, _: int) -> None:
        """Let it turn out that the exchange had filled what was said to be cancelled."""
        left, order.cancelled_quantity = order.cancelled_quantity, 0
        self._fill(order, order.terms.price_raw, left)

    # Trading.

    def _rest(self, order: Order, due_ns: int) -> None:
        """Put an order into the exchange's book, or back into it, and let it trade."""
        self._resting.setdefault(order.terms.row, {})[order.order_id] = order
        self._enter(order, Status.TRIGGER_PENDING if order.awaits_trigger else Status.OPEN)
        if order.awaits_trigger:
            self._try_trigger(order)
        else:
            self._take(order)
        if order.terms.validity is Validity.IOC and not (order.is_terminal or order.awaits_trigger):
            self._cancelled(order, due_ns)
        self._next_request(order, due_ns)

    def _react(self, order: Order) -> None:
        """Let a resting order meet new quotes; what reaches it trades at its own price."""
        if order.awaits_trigger:
            self._try_trigger(order)
            return
        for fill in self._reached(order):
            self._fill(order, order.terms.price_raw, fill.quantity)

    def _try_trigger(self, order: Order) -> None:
        terms, market = order.terms, self._market
        ltp_raw = int(market.board.ltp_raw[terms.row])
        if not matching.is_triggered(terms.side, ltp_raw=ltp_raw, trigger_raw=terms.trigger_raw):
            return
        order.is_triggered = True
        if terms.order_type is OrderType.SL_M and terms.protection_percent is not None:
            band_raw = matching.band_raw(market, terms, terms.protection_percent)
            order.terms = dataclasses.replace(terms, price_raw=band_raw)
        # From now on it is a limit order, and a change of it starts from there.
        order.asked = dataclasses.replace(
            order.terms, order_type=OrderType.LIMIT, trigger_raw=0, protection_percent=None
        )
        self._enter(order, Status.OPEN)
        self._send_update(order, Status.UPDATE)
        self._take(order)
        if order.terms.validity is Validity.IOC and not order.is_terminal:
            self._cancelled(order, 0)

    def _take(self, order: Order) -> None:
        """Trade at the quotes' own prices, as an order that comes to them does."""
        for fill in self._reached(order):
            self._fill(order, fill.price_raw, fill.quantity)

    def _reached(self, order: Order) -> list[matching.Fill]:
        return matching.sweep(
            self._market.board,
            self._taken,
            row=order.terms.row,
            side=order.terms.side,
            limit_raw=order.terms.price_raw,
            quantity=min(order.open_quantity, order.part or order.open_quantity),
        )

    def _fill(self, order: Order, price_raw: int, quantity: int) -> None:
        trade = Trade(
            trade_id=self._numbers.trade_id(),
            order_id=order.order_id,
            exchange_order_id=order.exchange_order_id or "",
            row=order.terms.row,
            side=order.terms.side,
            product=order.terms.product,
            price_raw=price_raw,
            quantity=quantity,
            ordered_ns=order.placed_ns,
            at_ns=self._clock.now_ns(),
        )
        order.trades.append(trade)
        order.filled_quantity += quantity
        order.filled_value_raw += quantity * price_raw
        account = self._accounts[order.user_id]
        account.book(trade)
        margins.block_beside(self._market, account, order)
        row = order_rows.trade_row(self._market, trade)
        facts = {name: row[name] for name in ("trade_id", "average_price", "quantity")}
        self._note(EntryKind.TRADE, order, **facts)
        if order.terms.stop_raw:
            self._cover(account, order, quantity)
        if order.filled_quantity == order.terms.quantity:
            self._end(order, Status.COMPLETE)
            self._follow(account, order)
        else:
            # A fill changes no state: the history shows the state with the new quantities.
            self._enter(order, order.status or Status.OPEN)
            self._send_update(order, Status.UPDATE)

    # Legs.

    def _cover(self, account: Account, order: Order, quantity: int) -> None:
        """Protect what was filled of a cover order: one stop that grows with its fills."""
        second = order.second_leg
        if second is not None and not second.is_terminal and not second.is_triggered:
            grown = second.terms.quantity + quantity
            second.terms = dataclasses.replace(second.terms, quantity=grown)
            second.asked = dataclasses.replace(second.asked, quantity=grown)
            self._enter(second, second.status or Status.RECEIVED)
            return
        terms = legs.second_leg(order, quantity=quantity, repeats_tag=self._options.tags_on_legs)
        order.second_leg = self._new(account, terms, AS_USUAL, parent_order_id=order.order_id)

    def _follow(self, account: Account, order: Order) -> None:
        """Place the next leg of an iceberg whose last one is filled."""
        terms = legs.next_leg(order)
        if terms is None:
            return
        handling = Handling(part=order.part)
        try:
            margins.check(self._market, account, terms)
        except KiteError as error:
            handling = Handling(refusal=error.message)
        self._new(account, terms, handling)
        self.on_leg(account.user_id)

    # Books.

    def _enter(self, order: Order, status: Status) -> None:
        order.status = status
        if order.exchange_order_id is not None:
            order.exchange_update_ns = self._clock.now_ns()
        row = order_rows.order_row(self._market, order, self._clock.now_ns())
        order.history.append(row)
        facts = {name: row[name] for name in ("status", "filled_quantity", "pending_quantity")}
        self._note(EntryKind.STATUS, order, **facts)

    def _end(self, order: Order, status: Status) -> None:
        order.waiting.clear()
        self._resting.get(order.terms.row, {}).pop(order.order_id, None)
        self._enter(order, status)
        account = self._accounts[order.user_id]
        account.working.pop(order.order_id, None)
        margins.block(self._market, account, order)
        self._send_update(order, status)

    def _send_update(self, order: Order, status: Status) -> None:
        self._publish(order.user_id, order_rows.update(order.history[-1], status))

    def _note(self, kind: EntryKind, order: Order, **facts: object) -> None:
        self._ledger.append(
            kind, user_id=order.user_id, order_id=order.order_id, tag=order.terms.tag, **facts
        )


def _priority(order: Order) -> tuple[int, str]:
    """Better prices trade first, then older orders."""
    price_raw = order.terms.price_raw
    return (-price_raw if order.terms.side is Side.BUY else price_raw), order.order_id
