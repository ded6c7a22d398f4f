"""Hold what the broker says was traded and is held against the journal and the order book.

The order book tells what became of orders; `orders.reconcile` merges it. Here the broker's other
two books are the witnesses: the fills of each order must come to what the journal says was filled,
and the fills of all orders, ours and others', to the net positions. Nothing is put right here: who
is wrong, only a person can say. Source: reliability.md §1.12.

The books are read one after the other while orders are filled, so that they differ for a moment all
the time. What differs is told only when it was seen twice, with the same figures, and the order
book was read in between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.domain.order import Side, Variety
from ticker_service.domain.order_state import TERMINAL
from ticker_service.domain.portfolio import PositionKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from ticker_service.domain.order import Account, BrokerOrder, OrderTask
    from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade
    from ticker_service.orders.positions import Positions
    from ticker_service.orders.reconcile import BookMemory
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

PRICE_RATIO_MAX: Final = Decimal("0.0001")
"""Averages may differ by so much of themselves (reliability.md §1.12)."""
PRICE_INR_MAX: Final = Decimal("0.005")
"""Or by so much: the order book may show its average rounded to a paisa."""


class Differs(StrEnum):
    """What two witnesses disagree about."""

    FILLS = "fills"
    """How much of an order was filled."""
    PRICE = "price"
    """At what price on average."""
    POSITION = "position"
    """How much of an instrument the day's fills have made."""
    PRODUCT = "product"
    """Of which product it is; a person who converts a position does that."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Difference:
    """One thing two witnesses disagree about; ``name`` is an order id, or what a position is of."""

    what: Differs
    name: str
    ours: Decimal
    theirs: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filled:
    """What is said of one order; ``is_ended`` when nothing more is expected of it."""

    key: PositionKey
    is_buy: bool
    quantity: int
    average_price: Decimal | None
    is_ended: bool = False

    @property
    def signed(self) -> int:
        return self.quantity if self.is_buy else -self.quantity


def _unheard(_: Difference, __: bool) -> None:  # noqa: FBT001 - as `Audit` calls it
    return


class Audit:
    """One account's; any number of looks, one at a time."""

    def __init__(
        self,
        account: Account,
        journal: OrderJournal,
        positions: Positions,
        memory: BookMemory,
        clock: Clock,
    ) -> None:
        """Begin with nothing known.

        Args:
            account: Whose.
            journal: What we hold for filled.
            positions: Reads the fills and positions, and keeps them for others.
            memory: Which rows of the book are ours.
            clock: Tells how old the last look is.
        """
        self.on_change: Callable[[Difference, bool], None] = _unheard
        """Told of each difference, with True when it is sure and False when it is gone."""
        self.differences: frozenset[Difference] = frozenset()
        self._account = account
        self._journal = journal
        self._positions = positions
        self._memory = memory
        self._clock = clock
        self._book: Sequence[BrokerOrder] = ()
        self._book_began_ns: int | None = None
        self._suspected: frozenset[Difference] = frozenset()
        self._suspected_ns: int | None = None
        """When the look ended that suspected them; a book that was asked for later decides."""
        self._looked_ns: int | None = None
        self._settled: dict[str, _Filled] = {}
        """Our orders that have ended and whose fills agreed; the journal is not asked again."""

    def take_book(self, rows: Sequence[BrokerOrder], began_ns: int) -> None:
        """Take a whole book that was just merged, and when its reading began, monotonic ns.

        One that lacks orders is no witness: what it does not show, the journal does not have yet.
        """
        self._book = rows
        self._book_began_ns = began_ns

    def forget(self) -> None:
        """Know nothing of a journal that another process may have written, or a replica replaced.

        What was told stays told until the next two looks agree that it is gone.
        """
        self._book, self._settled = (), {}

    def external(self) -> list[BrokerOrder]:
        """Return the newest whole book's orders that are of no instruction of ours."""
        return [row for row in self._book if row.order_id not in self._memory.ours]

    def lasting(self) -> frozenset[PositionKey]:
        """Return the positions that are known for sure to differ from the fills."""
        kinds = {Differs.POSITION, Differs.PRODUCT}
        found = [each.name.split(":") for each in self.differences if each.what in kinds]
        return frozenset(PositionKey(*name) for name in found)

    @property
    def age_ns(self) -> int | None:
        """How old the last whole look is; None before the first."""
        return None if self._looked_ns is None else self._clock.monotonic_ns() - self._looked_ns

    async def look(self) -> bool:
        """Compare once; return whether something differs that is not sure yet.

        Raises:
            BrokerUnavailable: The fills or positions could not be read.
            LoginRequired: The access token was refused.
            JournalUnavailable: The journal does not answer.
        """
        began_ns = self._clock.monotonic_ns()
        book_ns, book = self._book_began_ns, {row.order_id: row for row in self._book}
        reading = await self._positions.read()
        traded = _by_order(reading.trades, self._memory.first_legs)
        told = await self._told(book, traded)
        differing = _differing_positions(told.values(), reading.positions)
        found = frozenset([*_differing_orders(told, traded), *differing])
        suspected_ns = self._suspected_ns
        if suspected_ns is None or (book_ns is not None and book_ns > suspected_ns):
            self._be_sure_of(found & self._suspected)
            self._suspected, self._suspected_ns = found, self._clock.monotonic_ns()
        self._looked_ns = began_ns
        return bool(found - self.differences)

    async def _told(
        self, book: Mapping[str, BrokerOrder], traded: Mapping[str, _Filled]
    ) -> dict[str, _Filled]:
        """Return what journal and book say was filled, by order; the journal speaks for ours."""
        told = dict(traded)
        # Of an iceberg the journal has one sum, under its first leg's id; the legs are no witness.
        book = {k: row for k, row in book.items() if k not in self._memory.first_legs}
        told |= {order_id: _of_row(row) for order_id, row in book.items() if row.filled_quantity}
        ids = told.keys() | (self._memory.ours & book.keys())
        settled = {
            order_id: filled
            for order_id, filled in self._settled.items()
            if order_id in ids and _agree(filled, traded.get(order_id))
        }
        tasks = await self._journal.tasks_by_order_id(self._account, ids - settled.keys())
        ours = {
            task.broker_order_id or "": _of_task(task, traded.get(task.broker_order_id or ""))
            for task in tasks
        }
        self._settled = settled | {
            order_id: filled
            for order_id, filled in ours.items()
            if filled.is_ended and _agree(filled, traded.get(order_id))
        }
        return told | ours | settled

    def _be_sure_of(self, sure: frozenset[Difference]) -> None:
        """Tell what is sure now and was not, and what is gone."""
        before, self.differences = self.differences, sure
        for each in sorted(sure - before):
            log.error(
                "books_differ",
                account=self._account,
                what=each.what,
                name=each.name,
                ours=str(each.ours),
                theirs=str(each.theirs),
            )
            self.on_change(each, True)  # noqa: FBT003 - as it is documented
        for each in sorted(before - sure):
            log.info("books_agree_again", account=self._account, what=each.what, name=each.name)
            self.on_change(each, False)  # noqa: FBT003 - as it is documented


def _by_order(trades: Iterable[BrokerTrade], first_legs: Mapping[str, str]) -> dict[str, _Filled]:
    """Return what the fills of each order come to; those of an iceberg's legs together."""
    quantities: Counter[str] = Counter()
    values: dict[str, Decimal] = {}
    of: dict[str, BrokerTrade] = {}
    for each in trades:
        order_id = first_legs.get(each.order_id, each.order_id)
        quantities[order_id] += each.quantity
        worth = each.quantity * each.average_price
        values[order_id] = values.get(order_id, Decimal(0)) + worth
        of[order_id] = each
    return {
        order_id: _Filled(
            key=each.key,
            is_buy=each.transaction_type == Side.BUY,
            quantity=quantities[order_id],
            average_price=values[order_id] / quantities[order_id] if quantities[order_id] else None,
        )
        for order_id, each in of.items()
    }


def _of_row(row: BrokerOrder) -> _Filled:
    return _Filled(
        key=PositionKey(row.exchange, row.tradingsymbol, row.product),
        is_buy=row.transaction_type == Side.BUY,
        quantity=row.filled_quantity,
        average_price=row.average_price or None,
    )


def _of_task(task: OrderTask, traded: _Filled | None) -> _Filled:
    body = task.body
    key = PositionKey(body["exchange"], body["tradingsymbol"], body["product"])
    if traded is not None and body.get("variety") == Variety.CO:
        # Kite may hold a cover order's position under a product of its own (kite.md §2.3).
        key = key._replace(product=traded.key.product)
    return _Filled(
        key=key,
        is_buy=body["transaction_type"] == Side.BUY,
        quantity=task.filled_quantity,
        average_price=task.average_price,
        is_ended=task.state in TERMINAL,
    )


def _agree(told: _Filled, traded: _Filled | None) -> bool:
    if traded is None or told.quantity != traded.quantity:
        return told.quantity == (traded.quantity if traded else 0)
    return _is_price_close(told.average_price, traded.average_price)


def _is_price_close(ours: Decimal | None, theirs: Decimal | None) -> bool:
    if ours is None or theirs is None:
        return True  # nobody has said it yet
    return abs(ours - theirs) <= max(PRICE_INR_MAX, abs(theirs) * PRICE_RATIO_MAX)


def _differing_orders(
    told: Mapping[str, _Filled], traded: Mapping[str, _Filled]
) -> Iterator[Difference]:
    for order_id, filled in told.items():
        fills = traded.get(order_id)
        quantity = fills.quantity if fills else 0
        if filled.quantity != quantity:
            yield Difference(
                what=Differs.FILLS,
                name=order_id,
                ours=Decimal(filled.quantity),
                theirs=Decimal(quantity),
            )
        elif fills and not _is_price_close(filled.average_price, fills.average_price):
            yield Difference(
                what=Differs.PRICE,
                name=order_id,
                ours=filled.average_price or Decimal(0),
                theirs=fills.average_price or Decimal(0),
            )


def _differing_positions(
    told: Iterable[_Filled], positions: Iterable[BrokerPosition]
) -> Iterator[Difference]:
    ours: Counter[PositionKey] = Counter()
    theirs: Counter[PositionKey] = Counter()
    for filled in told:
        ours[filled.key] += filled.signed
    for position in positions:
        theirs[position.key] += position.traded_quantity
    apart = {key: theirs[key] - ours[key] for key in ours.keys() | theirs.keys()}
    by_instrument: Counter[tuple[str, str]] = Counter()
    for key, quantity in apart.items():
        by_instrument[key.exchange, key.tradingsymbol] += quantity
    for key, quantity in apart.items():
        if quantity:
            is_held = by_instrument[key.exchange, key.tradingsymbol] == 0
            yield Difference(
                what=Differs.PRODUCT if is_held else Differs.POSITION,
                name=":".join(key),
                ours=Decimal(ours[key]),
                theirs=Decimal(theirs[key]),
            )
