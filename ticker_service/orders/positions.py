"""An account's net positions as the broker last told them, and what is being closed of each.

Beside the path of an order. The audit reads fills and positions now and then; what it read is kept
here, with its age and with the number of the journal's newest event before it was asked for. What
the journal tells after that number, the reading may lack. Whoever needs a fresher one has it read
anew; one that cannot be had, or whose orders cannot be told, is no leave to send anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.closing import (
    CLOSING_VARIETIES,
    Closing,
    UnderWay,
    closing,
    key_of,
    nearest_to_zero,
)
from ticker_service.domain.order import Side, TaskKind, Variety
from ticker_service.domain.order_legs import is_iceberg
from ticker_service.domain.order_state import LIVE, TERMINAL, UNSENT, TaskState, state_of
from ticker_service.domain.portfolio import PositionKey
from ticker_service.errors import BrokerUnavailable

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ticker_service.domain.closing import Closing
    from ticker_service.domain.order import Account, BrokerOrder, NewTask, OrderTask
    from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade
    from ticker_service.orders.reconcile import BookMemory
    from ticker_service.ports import BrokerGateway, OrderJournal
    from ticker_service.runtime.clock import Clock

FRESH_S: Final = 5.0
"""An order that may only reduce a position is held against a reading that is not older."""
EVENTS_MAX: Final = 500
"""So many events after a reading are looked through; after more it is read anew."""
QUANTITY_MAX: Final = 10_000_000
_CHANGING_STATUS: Final = frozenset({"MODIFY VALIDATION PENDING", "MODIFY PENDING"})
"""While a change is on its way the book does not tell to what (kite.md §2.5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The broker's fills and net positions, asked for in this order.

    Attributes:
        began_ns: When the asking began, monotonic ns.
        account_seq: The journal's newest event of the account before that.
        trades: The day's fills.
        positions: Net positions; every fill of ``trades`` is in them unless the broker lags.
    """

    began_ns: int
    account_seq: int
    trades: Sequence[BrokerTrade]
    positions: Sequence[BrokerPosition]

    def filled(self) -> Counter[str]:
        """Return how much of each order was filled, by order id."""
        filled: Counter[str] = Counter()
        for each in self.trades:
            filled[each.order_id] += each.quantity
        return filled

    def net(self, *, lasting: frozenset[PositionKey]) -> dict[PositionKey, int]:
        """Return the net positions.

        Args:
            lasting: Where fills and positions have differed for so long that neither lags, such as
                a position that somebody converted: there the broker's positions are believed.
                Elsewhere what both agree on is held.
        """
        return {
            key: told if key in lasting else nearest_to_zero(told, by_fills)
            for key, (told, by_fills) in self._both().items()
        }

    def open_keys(self, *, lasting: frozenset[PositionKey]) -> list[PositionKey]:
        """Return what is not known to be flat, sorted: one witness that says so is enough."""
        return sorted(
            key
            for key, (told, by_fills) in self._both().items()
            if told or (by_fills and key not in lasting)
        )

    def keys(self) -> Iterable[PositionKey]:
        """Return every name that the day's positions and fills have, flat ones among them."""
        return self._both().keys()

    def _both(self) -> dict[PositionKey, tuple[int, int]]:
        """Return what is held as the positions tell it, and as the fills do."""
        told: Counter[PositionKey] = Counter()
        by_fills: Counter[PositionKey] = Counter()
        for position in self.positions:
            told[position.key] += position.quantity
            by_fills[position.key] += position.overnight_quantity
        for fill in self.trades:
            is_buy = fill.transaction_type == Side.BUY
            by_fills[fill.key] += fill.quantity if is_buy else -fill.quantity
        return {key: (told[key], by_fills[key]) for key in {*told, *by_fills}}


class Positions:
    """One account's; belongs to one event loop."""

    def __init__(
        self,
        account: Account,
        journal: OrderJournal,
        gateway: BrokerGateway,
        memory: BookMemory,
        clock: Clock,
    ) -> None:
        """Begin with nothing known.

        Args:
            account: Whose.
            journal: What we have sent.
            gateway: Whose fills and positions are read.
            memory: The orders that a whole book must hold.
            clock: Tells how old a reading is.
        """
        self.lasting: Callable[[], frozenset[PositionKey]] = frozenset
        """Where fills and positions are known to differ; see :meth:`Reading.net`."""
        self._account = account
        self._journal = journal
        self._gateway = gateway
        self._memory = memory
        self._clock = clock
        self._reading: Reading | None = None
        self._book: Sequence[BrokerOrder] = ()
        self._book_began_ns: int | None = None
        self._refreshing = asyncio.Lock()
        self._moved_ns: int | None = None
        """When another hand was last heard to have traded; a reading of before is old."""

    @property
    def age_ns(self) -> int | None:
        """How old the newest reading is; None before the first."""
        return None if self._reading is None else self._age_ns(self._reading.began_ns)

    def take_book(self, rows: Sequence[BrokerOrder], began_ns: int) -> None:
        """Take a whole order book, and when its reading began, monotonic ns."""
        self._book, self._book_began_ns = rows, began_ns

    def hear(self, row: BrokerOrder) -> None:
        """Take an update of an order that is not ours: what it filled is to be read."""
        reading = self._reading
        if reading is None or row.filled_quantity > reading.filled()[row.order_id]:
            self._moved_ns = self._clock.monotonic_ns()

    def forget(self) -> None:
        """Know nothing: another process may have had the account."""
        self._reading, self._book, self._book_began_ns = None, (), None

    async def read(self) -> Reading:
        """Read fills and positions, keep and return them.

        Raises:
            BrokerUnavailable: They could not be read.
            LoginRequired: The access token was refused.
            JournalUnavailable: The journal does not answer.
        """
        began_ns = self._clock.monotonic_ns()
        account_seq = await self._journal.last_seq(self._account)
        trades = await self._gateway.trades()
        positions = await self._gateway.positions()
        reading = Reading(
            began_ns=began_ns, account_seq=account_seq, trades=trades, positions=positions
        )
        if self._reading is None or self._reading.began_ns <= began_ns:
            self._reading = reading
        return reading

    async def refresh(self, *, than_s: float = FRESH_S) -> Reading:
        """Have a reading and an order book that are not older, asking for what is; as `read`.

        One that began after this was called is young enough whatever was asked for: those who wait
        for one another share it.
        """
        asked_ns = self._clock.monotonic_ns()
        async with self._refreshing:
            reading = self._reading
            if reading is None or not (
                reading.began_ns > asked_ns or self._is_young(reading.began_ns, than_s)
            ):
                reading = await self.read()
            # The younger of the two: what an order elsewhere has filled since is told by it, and
            # what a change of before has made of an order of ours.
            if self._book_began_ns is None or self._book_began_ns < reading.began_ns:
                await self._read_book()
            return reading

    async def net(self, *, than_s: float = FRESH_S) -> dict[PositionKey, int]:
        """Return the net positions that are not 0; raises as :meth:`read`."""
        reading = await self.refresh(than_s=than_s)
        return {key: held for key, held in reading.net(lasting=self.lasting()).items() if held}

    async def closing(
        self, key: PositionKey, *, but: uuid.UUID | None = None, than_s: float = FRESH_S
    ) -> Closing:
        """Return a position with everything that may still close it; raises as :meth:`read`.

        Args:
            key: Which.
            but: A task of ours that is asked about and does not count.
            than_s: How old the reading may be.
        """
        return (await self.look(than_s=than_s)).closing(key, but=but)

    async def not_reducing(
        self,
        asked: NewTask | OrderTask,
        target: OrderTask | None = None,
        *,
        counts_unsent: bool = True,
        than_s: float = FRESH_S,
    ) -> str:
        """Return why an order or a change may do more than reduce a position, empty if it may not.

        An order must strictly reduce the broker's net position. A change must leave its order so
        that it does, or do nothing but make it smaller.

        Args:
            asked: A PLACE or MODIFY; it need not be journalled yet.
            target: The order that a change is about.
            counts_unsent: Whether what waits to be sent counts. It does at the door; what is about
                to leave is held against what has left or is leaving, or two would hold each other.
            than_s: How old the reading may be.

        Raises:
            BrokerUnavailable: That is not known: it is to be held for one that does more.
            LoginRequired: As above.
            JournalUnavailable: As above.
        """
        body = (target or asked).body
        variety = Variety(body.get("variety", Variety.REGULAR))
        if variety not in CLOSING_VARIETIES:
            return f"an order of variety {variety} closes no position"
        look = await self.look(counts_unsent=counts_unsent, than_s=than_s)
        side, key = Side(body["transaction_type"]), key_of(body)
        if asked.kind is not TaskKind.MODIFY or target is None:
            held = look.closing(key, but=asked.task_id)
            return held.refusal(side, int(body["quantity"]))
        present = look.most(target)
        wanted = int(asked.body.get("quantity", present))
        if wanted < present and set(asked.body) == {"quantity"}:
            return ""
        left = max(wanted, present) - look.counted(target)
        return look.closing(key, but=target.task_id).refusal(side, left)

    async def look(self, *, than_s: float = FRESH_S, counts_unsent: bool = True) -> Look:
        """Return all that may have done something to a position since it was read, and may yet.

        Raises as :meth:`read`.
        """
        reading = await self.refresh(than_s=than_s)
        tasks = await self._touched(reading)
        if tasks is None:
            reading = await self.refresh(than_s=0.0)
            tasks = await self._touched(reading)
        if tasks is None:
            raise BrokerUnavailable(
                f"account={self._account}: more than {EVENTS_MAX} events since the positions were "
                "asked for"
            )
        if not counts_unsent:
            tasks = [task for task in tasks if task.state not in UNSENT]
        return self._look_of(reading, tasks, lasting=self.lasting())

    async def may_close(self, task: OrderTask) -> bool:
        """Return whether an order may close something of what is held or under way.

        Told without asking the broker, from the newest reading of whatever age and from the
        journal: for an account that cannot be asked. What cannot be told is a yes.

        Raises:
            JournalUnavailable: The journal does not answer.
        """
        reading = self._reading
        if reading is None:
            return True
        touched = await self._touched(reading)
        if touched is None:
            return True
        key, side = key_of(task.body), Side(task.body["transaction_type"])
        told = frozenset(position.key for position in reading.positions)
        look = self._look_of(reading, touched, lasting=told)
        return look.may_be_closed(key, side, but=task.task_id)

    def _look_of(
        self, reading: Reading, tasks: Sequence[OrderTask], *, lasting: frozenset[PositionKey]
    ) -> Look:
        return Look(
            began_ns=reading.began_ns,
            open_keys=reading.open_keys(lasting=lasting),
            tasks=tasks,
            rows={row.order_id: row for row in self._book},
            filled=reading.filled(),
            net=reading.net(lasting=lasting),
            known=frozenset(reading.keys()),
        )

    async def _read_book(self) -> None:
        began_ns = self._clock.monotonic_ns()
        must_hold = frozenset(self._memory.known_order_ids)
        rows = await self._gateway.orders()
        if not must_hold <= {row.order_id for row in rows}:
            raise BrokerUnavailable(f"account={self._account}: the order book lacks known orders")
        self.take_book(rows, began_ns)

    async def _touched(self, reading: Reading) -> list[OrderTask] | None:
        """Return the tasks that may have done something to a position since it was read.

        Those that are open now, and those that ended since. None when there are too many events.
        """
        # The events last: what moved back to READY while the lists were read is among them.
        found = await self._journal.unsent(self._account)
        found += await self._journal.in_doubt(self._account)
        found += await self._journal.live_orders(self._account)
        tasks = {task.task_id: task for task in found}
        events = await self._journal.events_after(
            self._account, reading.account_seq, limit=EVENTS_MAX
        )
        if len(events) >= EVENTS_MAX:
            return None
        for task_id in {event.task_id for event in events} - tasks.keys():
            task = await self._journal.task(task_id)
            if task is not None:
                tasks[task_id] = task
        return list(tasks.values())

    def _is_young(self, began_ns: int | None, than_s: float) -> bool:
        if began_ns is None or (self._moved_ns is not None and began_ns <= self._moved_ns):
            return False
        return self._age_ns(began_ns) <= than_s * NS_PER_S

    def _age_ns(self, began_ns: int) -> int:
        return self._clock.monotonic_ns() - began_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The account at one moment: its positions, and what has happened and may happen to them.

    Attributes:
        began_ns: When the positions were asked for, monotonic ns.
        open_keys: What is not known to be flat.
        tasks: Ours that are open, and those that ended since the positions were asked for.
        rows: The order book, by order id.
        filled: How much of each order the positions have, by order id.
        net: What is held at least.
        known: What the day's positions and fills name.
    """

    began_ns: int
    open_keys: Sequence[PositionKey]
    tasks: Sequence[OrderTask]
    rows: Mapping[str, BrokerOrder]
    filled: Mapping[str, int]
    net: Mapping[PositionKey, int]
    known: frozenset[PositionKey]

    def names(self) -> frozenset[PositionKey]:
        """Return every position that is or was held today, or may come of an order that stands."""
        rows = (
            PositionKey(row.exchange, row.tradingsymbol, row.product)
            for row in self.rows.values()
            if row.filled_quantity or state_of(row) not in TERMINAL
        )
        ours = (key_of(task.body) for task in self.tasks if task.kind is TaskKind.PLACE)
        return self.known.union(rows, ours)

    def closing(self, key: PositionKey, *, but: uuid.UUID | None = None) -> Closing:
        """Return a position with what is under way to close it, without one task of ours."""
        orders = [*self._ours(but), *self._others()]
        return closing(key, self.net.get(key, 0), orders)

    def may_be_closed(self, key: PositionKey, side: Side, *, but: uuid.UUID | None) -> bool:
        """Return whether something of a position is or may come to be that this side closes."""
        opens = Side.BUY if side is Side.SELL else Side.SELL
        is_opened = any(
            each.key == key and each.side is opens and each.left
            for each in [*self._ours(but), *self._others()]
        )
        held = self.net.get(key, 0)
        return is_opened or (held > 0 if side is Side.SELL else held < 0)

    def is_flat(self, key: PositionKey) -> bool:
        """Return whether nothing is held: both witnesses say so, and no fill is younger than they.

        What was filled since the positions were asked for may have opened one.
        """
        return key not in self.open_keys and key not in self.uncounted()

    def is_beyond(self, key: PositionKey, orders: Iterable[OrderTask]) -> bool:
        """Return whether live orders may fill more of a position than is held of it."""
        left: Counter[Side] = Counter()
        for order in orders:
            if order.kind is TaskKind.PLACE and order.state in LIVE:
                side = Side(order.body["transaction_type"])
                left[side] += max(int(order.body["quantity"]) - self.counted(order), 0)
        held = self.net.get(key, 0)
        return left[Side.SELL] > max(held, 0) or left[Side.BUY] > max(-held, 0)

    def uncounted(self) -> set[PositionKey]:
        """Return the positions of which something was filled since they were read."""
        ours = {
            key_of(task.body)
            for task in self.tasks
            if task.kind is TaskKind.PLACE and task.filled_quantity > self.counted(task)
        }
        rows = (
            PositionKey(row.exchange, row.tradingsymbol, row.product)
            for row in self.rows.values()
            if row.filled_quantity > self.filled.get(row.order_id, 0)
        )
        return ours.union(rows)

    def counted(self, task: OrderTask) -> int:
        """Return how much of an order of ours the positions have."""
        return self.filled.get(task.broker_order_id or "", 0)

    def most(self, task: OrderTask) -> int:
        """Return how much may be filled of an order of ours in all.

        One that a person has to decide about may be at the broker with all of it.
        """
        if task.state in TERMINAL and task.state is not TaskState.MANUAL:
            return task.filled_quantity
        row = self.rows.get(task.broker_order_id or "")
        if row is not None and row.status.upper() in _CHANGING_STATUS:
            return QUANTITY_MAX
        # The book shows the quantity after the changes of before; those since are asked apart. The
        # row of an iceberg is of one leg; the others have rows of their own beside it.
        is_told = row is not None and not is_iceberg(task)
        quantity = row.quantity if row and is_told else int(task.body["quantity"])
        return max(quantity, self._changed_to(task.task_id), task.filled_quantity)

    def _changed_to(self, target_task_id: uuid.UUID) -> int:
        """Return the greatest quantity that a change since may have given an order."""
        return max(
            (
                int(task.body.get("quantity", 0))
                for task in self.tasks
                if task.target_task_id == target_task_id
                and task.kind is TaskKind.MODIFY
                and (task.state not in TERMINAL or task.state is TaskState.MANUAL)
            ),
            default=0,
        )

    def _ours(self, but: uuid.UUID | None) -> Iterable[UnderWay]:
        for task in self.tasks:
            if task.kind is TaskKind.PLACE and task.task_id != but:
                yield UnderWay(
                    key=key_of(task.body),
                    side=Side(task.body["transaction_type"]),
                    most=self.most(task),
                    counted=self.counted(task),
                )

    def _others(self) -> Iterable[UnderWay]:
        """Yield what was placed elsewhere, or has ended as we hold it and is yet to be seen so."""
        ours = {task.broker_order_id for task in self.tasks}
        for row in self.rows.values():
            if row.order_id not in ours and row.transaction_type in set(Side):
                is_ended = state_of(row) in TERMINAL
                yield UnderWay(
                    key=PositionKey(row.exchange, row.tradingsymbol, row.product),
                    side=Side(row.transaction_type),
                    most=row.filled_quantity if is_ended else row.quantity,
                    counted=self.filled.get(row.order_id, 0),
                )
