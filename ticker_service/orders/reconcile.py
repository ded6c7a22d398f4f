"""Merge the broker's order book and its updates into the journal, monotonically.

The same code serves start-up, every poll, and every update of the WebSocket: rows may come twice,
late or in any order and lead to the same state (I5, I7). A row is ours by the tag of one of our
sends, or, where the broker has lost the tag, by the order id it gave us. A row with our tag and no
journal entry is an orphan: the journal may have lost more, so the account is halted (I11).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from ticker_service.constants import NS_PER_S
from ticker_service.domain import order_legs, order_state
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind, Variety
from ticker_service.domain.session import day_start_ns, ist_date, read_kite_time
from ticker_service.domain.tag import is_ours
from ticker_service.errors import JournalError, JournalUnavailable, TaskMoved

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from ticker_service.accounts.halts import Halts
    from ticker_service.domain.order import Account, BrokerOrder, OrderTask
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock, Moment

log = structlog.get_logger()

STALE_NS_MAX: Final = 10 * NS_PER_S
"""Books that show an ended order alive for so long are not merely older than its end."""
UNCOVERED_NS_MAX: Final = 10 * NS_PER_S
"""So long the books may take to show the second leg of a cover order that was filled."""
MERGE_TRIES_MAX: Final = 10
"""A task that moves under every one of so many merges is being moved by our own bug."""


@dataclass(slots=True)
class BookMemory:
    """What is known of the day's book, to tell a whole one from a truncated one (A3)."""

    day: dt.date | None = None
    is_journal_read: bool = False
    """Whether what the journal knows of the day is among what is known here."""
    known_order_ids: set[str] = field(default_factory=set)
    """The day's orders that a book, an update, the broker's answer or the journal told of."""
    ours: set[str] = field(default_factory=set)
    """The broker's ids of the day's rows that belong to a task of ours."""
    foreign: set[str] = field(default_factory=set)
    """The broker's ids of the day's orders that no task of ours explains: other apps placed them,
    and the broker counts them for the account's day."""
    alarmed: set[str] = field(default_factory=set)
    merged: dict[str, BrokerOrder] = field(default_factory=dict)
    """Rows that the journal has, by order id: a book that repeats one brings no news."""
    contradicted: dict[str, int] = field(default_factory=dict)
    """Since which book, monotonic ns, orders that we hold for ended have been shown alive."""
    legs: dict[uuid.UUID, dict[str, BrokerOrder]] = field(default_factory=dict)
    """By instruction, the newest rows of the orders that the broker made of it: all legs of an
    iceberg, the second leg of a cover order."""
    covers: dict[uuid.UUID, int] = field(default_factory=dict)
    """Cover orders that were filled, and since when that is known, monotonic ns; each has a second
    leg, which the broker shows in its time."""
    first_legs: dict[str, str] = field(default_factory=dict)
    """The order id of an iceberg's later leg, and of its first, by which the journal calls it."""

    def turn_to(self, day: dt.date) -> None:
        """Forget the orders of other days; those leave the book at any time."""
        if day != self.day:
            self.day = day
            self.is_journal_read = False
            self.known_order_ids.clear()
            self.ours.clear()
            self.foreign.clear()
            self.alarmed.clear()
            self.merged.clear()
            self.contradicted.clear()
            self.legs.clear()
            self.covers.clear()
            self.first_legs.clear()

    @property
    def has_live_legs(self) -> bool:
        """Whether a leg stands at the broker or is still to be shown; no task says that of it."""
        rows = (row for legs in self.legs.values() for row in legs.values())
        is_live = any(order_state.state_of(row) not in order_state.TERMINAL for row in rows)
        return is_live or bool(self.covers.keys() - self.legs.keys())

    def doubt_the_journal(self) -> None:
        """Read the journal again: another process may have written it meanwhile."""
        self.is_journal_read = False
        self.merged.clear()
        # It may be a replica that lacks the newest: what was ours may be nobody's now.
        self.ours.clear()
        self.legs.clear()
        self.covers.clear()
        self.first_legs.clear()

    def legs_of(self, task: OrderTask) -> Collection[BrokerOrder]:
        """Return the newest rows of the orders that the broker made of an instruction."""
        return self.legs.get(task.task_id, {}).values()

    @property
    def placed_elsewhere(self) -> int:
        """How many orders of the day the broker may count that are no instruction of ours."""
        rows = (row for legs in self.legs.values() for row in legs.values())
        stops = sum(bool(row.parent_order_id) for row in rows)
        return len(self.foreign) + len(self.first_legs) + stops

    def keep(self, rows: Iterable[BrokerOrder]) -> None:
        """Remember the orders of the day that a book or an update tells of."""
        if self.day is not None:
            self.known_order_ids.update(row.order_id for row in rows if _is_of(row, self.day))

    def keep_named(self, task: OrderTask, order_id: str) -> None:
        """Remember an order that the broker's answer named, before any book shows it."""
        is_of_day = ist_date(task.intent_at_ns or task.created_at_ns) == self.day
        if task.kind is TaskKind.PLACE and is_of_day:
            self.known_order_ids.add(order_id)


def _is_of(row: BrokerOrder, day: dt.date) -> bool:
    """Return whether an order is of a day; one that does not say is of the day it is seen."""
    return not row.order_timestamp or row.order_timestamp.startswith(day.isoformat())


class Reconciler:
    """Merges rows for one account; any task may call it, the journal's versions keep it safe."""

    def __init__(
        self,
        account: Account,
        journal: OrderJournal,
        clock: Clock,
        *,
        installation: str,
        halts: Halts,
    ) -> None:
        self.on_surfaced: Callable[[OrderTask, str, int | None], Awaitable[None]] = _unheard
        """Told that a try of an order of a group is at the broker which was called unsent, why that
        is known and since when, before it is recorded."""
        self.memory = BookMemory()
        self.account = account
        self._journal = journal
        self._clock = clock
        self._installation = installation
        self._halts = halts

    async def begin_pass(self, began_ns: int) -> frozenset[str]:
        """Return the ids of the orders that a book read from now on must hold to be whole.

        What becomes known while it is read may be younger than the book, and is asked of the next.

        Args:
            began_ns: When its reading begins, ns since the Unix epoch.
        """
        day = ist_date(began_ns)
        self.memory.turn_to(day)
        if not self.memory.is_journal_read:
            known = await self._journal.order_ids_since(self.account, day_start_ns(day))
            if self.memory.day == day:
                # Added to what updates and answers told meanwhile, never in its place.
                self.memory.known_order_ids |= known
                self.memory.is_journal_read = True
        return frozenset(self.memory.known_order_ids)

    def learn(self, rows: Sequence[BrokerOrder]) -> None:
        """Know that there are these orders, whether they can be merged now, later or never."""
        self.memory.turn_to(ist_date(self._clock.now_ns()))
        self.memory.keep(rows)

    async def merge_book(self, rows: Sequence[BrokerOrder], *, began: Moment) -> int:
        """Merge a whole book, asked for when its reading began; return how many tasks changed."""
        self.learn(rows)
        before, self.memory.contradicted = self.memory.contradicted, {}
        news = [row for row in rows if self._is_news(row)]
        known = await self._known(news)
        changed = 0
        for row in news:
            since_ns = before.get(row.order_id, began.monotonic_ns)
            alive = _Alive(since_ns=since_ns, until_ns=began.monotonic_ns)
            changed += await self._merge(row, known.get(row.order_id), alive=alive)
        self._notice_uncovered()
        return changed

    async def merge_row(self, row: BrokerOrder) -> bool:
        """Merge one row or update into the task it belongs to.

        Raises:
            JournalUnavailable: The journal does not answer; the row will come again.
        """
        self.learn([row])
        if not self._is_news(row):
            return False
        return await self._merge(row, (await self._known([row])).get(row.order_id))

    async def _merge(
        self, row: BrokerOrder, task: OrderTask | None, *, alive: _Alive | None = None
    ) -> bool:
        """Merge one row into its task, as that was when it was looked up."""
        for _ in range(MERGE_TRIES_MAX):
            if task is None:
                if self.memory.day is not None and _is_of(row, self.memory.day):
                    self.memory.foreign.add(row.order_id)
                self._notice_orphan(row)
                return False
            self.memory.foreign.discard(row.order_id)
            shown = self._shown(row, task)
            if shown is None:
                return False
            is_lasting = alive is not None and alive.is_lasting
            update = order_state.merge(task, shown, is_lasting=is_lasting)
            if update is None:
                self._remember(row, shown, task, alive)
                return False
            await self._notice_unsent(row, task)
            try:
                moved = await self._journal.record(task, update, now_ns=self._clock.now_ns())
            except TaskMoved:
                task = await self._journal.task(task.task_id)
                continue
            except JournalUnavailable:
                raise
            except JournalError as error:
                # One row that the journal cannot hold must not take the account's others along.
                self._alarm("row_not_journalled", row, task_id=str(task.task_id), error=str(error))
                return False
            self.memory.merged[row.order_id] = row
            self._notice_late(task, moved)
            return True
        log.error("merge_gave_up", account=self.account, order_id=row.order_id)
        return False

    def _shown(self, row: BrokerOrder, task: OrderTask) -> BrokerOrder | None:
        """Return what a row shows of its instruction; None when that is nothing yet, or an alarm.

        A second order of one request is an alarm, except for the legs that were asked for.
        """
        if row.parent_order_id:
            is_second_leg = task.body.get("variety") == Variety.CO and task.broker_order_id in {
                None,
                row.parent_order_id,
            }
            if not is_second_leg:
                self._notice_double(row, task)
                return None
            self._keep_leg(row, task)
            self.memory.merged[row.order_id] = row
            return None
        if not order_legs.is_iceberg(task):
            if task.broker_order_id not in {None, row.order_id}:
                self._notice_double(row, task)
                return None
            self.memory.ours.add(row.order_id)
            if row.filled_quantity and task.body.get("variety") == Variety.CO:
                self.memory.covers.setdefault(task.task_id, self._clock.monotonic_ns())
            return row
        if order_legs.clashes(row, task, self.memory.legs.get(task.task_id, {})):
            self._notice_double(row, task)
            return None
        self._keep_leg(row, task)
        # While a leg is missing, the sums would be wrong; the next whole book has it.
        whole = order_legs.whole_iceberg(task, self.memory.legs_of(task))
        if whole is not None and whole.order_id != row.order_id:
            self.memory.first_legs[row.order_id] = whole.order_id
        return whole

    def _keep_leg(self, row: BrokerOrder, task: OrderTask) -> None:
        order_legs.keep_leg(self.memory.legs.setdefault(task.task_id, {}), row)
        self.memory.ours.add(row.order_id)

    def _remember(
        self, row: BrokerOrder, shown: BrokerOrder, task: OrderTask, alive: _Alive | None
    ) -> None:
        """Keep that a row brings nothing, unless it says alive of what we hold for ended."""
        if order_state.contradicts(task, shown):
            if alive is not None:
                self.memory.contradicted[row.order_id] = alive.since_ns
        elif task.state in order_state.AT_BROKER:
            self.memory.merged[row.order_id] = row

    def _is_news(self, row: BrokerOrder) -> bool:
        return self.memory.merged.get(row.order_id) != row

    def has_our_tag(self, row: BrokerOrder) -> bool:
        """Return whether a row names one of our sends."""
        return bool(self._our_tags(row))

    def _our_tags(self, row: BrokerOrder) -> list[str]:
        return [tag for tag in row.tags if is_ours(tag, self._installation)]

    async def _known(self, rows: Collection[BrokerOrder]) -> dict[str, OrderTask]:
        """Return the tasks of rows by order id: whom its tag names, or else its order id does."""
        by_tag = await self._by_tag([tag for row in rows for tag in self._our_tags(row)])
        # A tag that no attempt has may be of an order that a person said is a task's.
        untagged = {
            row.order_id: row
            for row in rows
            if not any(tag in by_tag for tag in self._our_tags(row))
        }
        # A leg that does not name its instruction by tag names its first leg.
        named = {row.parent_order_id or row.order_id for row in untagged.values()}
        found = await self._by_order_id(named)
        known = {
            order_id: found[row.parent_order_id or order_id]
            for order_id, row in untagged.items()
            if (row.parent_order_id or order_id) in found
        }
        for row in rows:
            tagged = (by_tag[tag] for tag in self._our_tags(row) if tag in by_tag)
            task = next((task for task in tagged if task.kind is TaskKind.PLACE), None)
            if task is not None:
                known[row.order_id] = task
        return known

    async def _by_tag(self, tags: Collection[str]) -> dict[str, OrderTask]:
        return await self._journal.tasks_by_tag(self.account, tags) if tags else {}

    async def _by_order_id(self, order_ids: Collection[str]) -> dict[str, OrderTask]:
        if not order_ids:
            return {}
        found = await self._journal.tasks_by_order_id(self.account, order_ids)
        return {task.broker_order_id or "": task for task in found}

    def _notice_late(self, was: OrderTask, now: OrderTask) -> None:
        """Say loudly that what we held for ended or unsent was not, or was filled further (I7)."""
        is_late = was.state in order_state.TERMINAL or was.state in order_state.UNSENT
        if is_late and (was.state, was.filled_quantity) != (now.state, now.filled_quantity):
            log.error(
                "late_fact_wins",
                account=self.account,
                task_id=str(was.task_id),
                was=was.state,
                now=now.state,
            )

    async def _notice_unsent(self, row: BrokerOrder, task: OrderTask) -> None:
        """Halt when a try that was called unsent is at the broker: the next one would double it.

        So would the next one on another account, for an order of a group.

        Raises:
            JournalUnavailable: Whether there is another one is not known; the row will come again.
        """
        is_of_earlier_try = task.state in order_state.IN_DOUBT and task.tag not in row.tags
        is_unsent = task.state in order_state.HELD_FOR_UNSENT or (
            is_of_earlier_try and bool(self._our_tags(row))
        )
        if not is_unsent and not await self._is_replaced(task):
            return
        reason = f"order {row.order_id} is of a try that was held for unsent"
        if self._alarm("unsent_order_at_broker", row, task_id=str(task.task_id), was=task.state):
            self._halts.begin(HaltCode.UNSENT_AT_BROKER, reason, fact_ns=_since(row))
        if task.account_group is not None:
            await self.on_surfaced(task, reason, _since(row))

    async def _is_replaced(self, task: OrderTask) -> bool:
        """Return whether another went on for an order that was called refused."""
        if task.account_group is None or task.state is not order_state.TaskState.REJECTED:
            return False
        return (await self._journal.lineage(task))[-1].task_id != task.task_id

    def _notice_uncovered(self) -> None:
        """Say loudly that a filled cover order has no stop: its loss is bounded by nobody."""
        long_ago_ns = self._clock.monotonic_ns() - UNCOVERED_NS_MAX
        for task_id, since_ns in self.memory.covers.items():
            is_bare = task_id not in self.memory.legs and since_ns <= long_ago_ns
            if is_bare and str(task_id) not in self.memory.alarmed:
                self.memory.alarmed.add(str(task_id))
                log.error(
                    "cover_order_without_stop",
                    account=self.account,
                    task_id=str(task_id),
                    advice="look at the broker's book; close the position or place a stop",
                )

    def _notice_orphan(self, row: BrokerOrder) -> None:
        if self._our_tags(row) and self._alarm("orphan_order", row):
            reason = f"order {row.order_id} has our tag {self._our_tags(row)[0]}"
            self._halts.begin(HaltCode.ORPHAN_ORDER, reason, fact_ns=_since(row))

    def _notice_double(self, row: BrokerOrder, task: OrderTask) -> None:
        """One request, two orders: what is known of the first is not mixed with the other."""
        if self._alarm("duplicate_order", row, task_id=str(task.task_id)):
            reason = f"orders {task.broker_order_id} and {row.order_id} are both of one request"
            self._halts.begin(HaltCode.DUPLICATE_ORDER, reason, fact_ns=_since(row))

    def _alarm(self, event: str, row: BrokerOrder, **facts: object) -> bool:
        """Say once of an order what only a person can put right; return whether it was now."""
        if row.order_id in self.memory.alarmed:
            return False
        self.memory.alarmed.add(row.order_id)
        log.error(event, account=self.account, order_id=row.order_id, tags=row.tags, **facts)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alive:
    """Between which books, monotonic ns, every one has shown an ended order alive."""

    since_ns: int
    until_ns: int

    @property
    def is_lasting(self) -> bool:
        return self.until_ns - self.since_ns >= STALE_NS_MAX


async def _unheard(_: OrderTask, __: str, ___: int | None) -> None:
    return


def _since(row: BrokerOrder) -> int | None:
    return read_kite_time(row.order_timestamp)
