"""The life of orders as Hypothesis finds it, on two journals and a broker that is a dictionary.

Each rule is one thing that happens: a caller asks, a daemon checks or sends, the broker takes the
order or not and answers or not, a daemon dies and another takes over, rows of the book come in any
order and number, a superseded daemon tries once more, somebody asks for a step that is none. After
every rule the invariants hold; in the end, when the whole book has been told, journal and broker
agree. A test module says which journals these are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journal_values import ACCOUNT, NOON_NS, claim, new_task, step

from ticker_service.domain.order import BrokerOrder
from ticker_service.domain.order_replay import differences, replay
from ticker_service.domain.order_state import (
    IN_DOUBT,
    TRANSITIONS,
    TaskState,
    merge,
    state_of,
)
from ticker_service.domain.tag import tag_of
from ticker_service.errors import IdempotencyConflict, InvariantViolatedError, TaskMoved

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Coroutine

    from ticker_service.domain.order import OrderEvent, OrderTask
    from ticker_service.ports import OrderJournal

T = TypeVar("T")
S = TaskState
KEYS: Final = ("k0", "k1", "k2", "k3")
QUANTITY: Final = 75
BODIES: Final = ({"quantity": "75"}, {"quantity": "150"})
INTERIM: Final = ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING", "OPEN")
ENDS: Final = ("COMPLETE", "CANCELLED", "REJECTED")
ANSWERS: Final = st.sampled_from(["ack", "lost", "crash", "no", "unsent"])
PICK: Final = st.integers(0, 99)


@dataclass(slots=True)
class AtBroker:
    """One order: every row its book has shown, the newest last."""

    tag: str
    rows: list[BrokerOrder] = field(default_factory=list)


def some(*states: TaskState) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a rule run only while there is a task in one of these states, or any at all."""
    return precondition(
        lambda machine: any(not states or each in states for each in machine.states.values())
    )


class OrderMachine(RuleBasedStateMachine):
    """One account, two daemons, of which one is its writer at a time."""

    # --- what a test module says ----------------------------------------------------------------

    async def open_two(self) -> tuple[OrderJournal, OrderJournal]:
        """Open two journals of the same empty records."""
        raise NotImplementedError

    async def cut(self, journal: OrderJournal) -> None:
        """End the session that holds a journal's account, without its knowing."""
        raise NotImplementedError

    async def notice(self, journal: OrderJournal) -> None:
        """Let it know."""
        raise NotImplementedError

    # --- the play -------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.writer, self.other = self.run(self.open_two())
        self.epoch = self.run(self.writer.acquire(ACCOUNT))
        self.asked: dict[str, tuple[uuid.UUID, dict[str, str]]] = {}
        self.orders: list[AtBroker] = []
        self.numbers = itertools.count(1)
        self.epochs: list[int] = []
        self.filled: dict[uuid.UUID, int] = defaultdict(int)
        self.states: dict[uuid.UUID, TaskState] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def task_at(self, pick: int, *states: TaskState) -> OrderTask | None:
        found = [self.read(task_id) for task_id, _ in self.asked.values()]
        fitting = [task for task in found if not states or task.state in states]
        return fitting[pick % len(fitting)] if fitting else None

    def read(self, task_id: uuid.UUID) -> OrderTask:
        task = self.run(self.other.task(task_id))
        assert task is not None, "I3: what was acknowledged is there"
        return task

    def record(self, task: OrderTask, state: TaskState, **said: Any) -> OrderTask:
        return self.keep(self.run(self.writer.record(task, step(state, **said), now_ns=NOON_NS)))

    def keep(self, task: OrderTask) -> OrderTask:
        self.states[task.task_id] = task.state
        return task

    # --- callers --------------------------------------------------------------------------------

    @rule(key=st.sampled_from(KEYS), body=st.sampled_from(BODIES), at_writer=st.booleans())
    def ask(self, key: str, body: dict[str, str], at_writer: bool) -> None:  # noqa: FBT001
        journal = self.writer if at_writer else self.other
        new = new_task(request_id=key, client_order_id=key, body=body)
        known = self.asked.get(key)
        if known is not None and known[1] != body:
            with pytest.raises(IdempotencyConflict):
                self.run(journal.admit(new))
            return
        admitted = self.run(journal.admit(new))
        assert admitted.is_new == (known is None), "I2"
        if known is not None:
            assert admitted.task.task_id == known[0], "I2"
        self.asked[key] = (admitted.task.task_id, body)
        self.keep(admitted.task)

    @some(S.RECEIVED)
    @rule(pick=PICK, ready=st.sampled_from([True, True, True, False]))
    def check(self, pick: int, ready: bool) -> None:  # noqa: FBT001
        task = self.task_at(pick, S.RECEIVED)
        if task is not None:
            self.record(task, S.READY if ready else S.CANCELLED_LOCAL)

    # --- sending --------------------------------------------------------------------------------

    @rule(accepts=st.booleans(), answer=ANSWERS)
    def trade(self, accepts: bool, answer: str) -> None:  # noqa: FBT001
        """Ask, check and send in one go; step by step, few lives would come so far."""
        key = f"trade-{len(self.asked)}"
        self.ask(key, BODIES[0], at_writer=True)
        self._send(self.record(self.read(self.asked[key][0]), S.READY), answer, accepts=accepts)

    @some(S.READY)
    @rule(pick=PICK, accepts=st.booleans(), answer=ANSWERS)
    def send(self, pick: int, accepts: bool, answer: str) -> None:  # noqa: FBT001
        task = self.task_at(pick, S.READY)
        if task is not None:
            self._send(task, answer, accepts=accepts)

    def _send(self, task: OrderTask, answer: str, *, accepts: bool) -> None:
        tag = tag_of("T0", task.task_id, task.attempt + 1)
        sending = self.keep(self.run(claim(self.writer, task, self.epoch, tag=tag)))
        self.epochs.append(sending.writer_epoch or 0)
        # A broker that says no has taken nothing, nor has one that nothing was sent to.
        if answer == "ack" or (accepts and answer in {"lost", "crash"}):
            order_id = f"{next(self.numbers):015d}"
            self.orders.append(AtBroker(tag, [_row(order_id, tag, INTERIM[0], 0)]))
        match answer:
            case "ack":
                order_id = self.orders[-1].rows[0].order_id
                self.record(sending, S.ACKED, outcome="ACKED", broker_order_id=order_id)
            case "no":
                self.record(sending, S.REJECTED, outcome="REJECTED")
            case "unsent":
                self.record(sending, S.READY, outcome="NOT_SENT")
            case "lost":
                self.record(sending, S.UNKNOWN, outcome="AMBIGUOUS")
            case _:
                pass  # it died; whoever takes over finds it SENDING

    @some()
    @rule(noticed=st.booleans())
    def take_over(self, noticed: bool) -> None:  # noqa: FBT001
        """The writer loses its account; what it was sending is in doubt, and it has no say in it."""
        old, old_epoch = self.writer, self.epoch
        ready = self.task_at(0, S.READY)
        self.run(self.cut(old))
        if noticed:
            self.run(self.notice(old))
        self.writer, self.other = self.other, old
        self.epoch = self.run(self.writer.acquire(ACCOUNT))
        assert self.epoch > old_epoch, "I6"
        sending = self.run(self.writer.in_doubt(ACCOUNT))
        for task in sending:
            if task.state is S.SENDING:
                for state in (S.READY, S.ACKED, S.UNKNOWN):
                    with pytest.raises(TaskMoved):
                        self.run(old.record(task, step(state), now_ns=NOON_NS))
                with pytest.raises(TaskMoved):
                    # Only who sent it may say that nothing left.
                    self.record(task, S.READY)
                self.record(task, S.UNKNOWN)
        if ready is not None:
            tag = tag_of("T0", ready.task_id, ready.attempt + 1)
            with pytest.raises(TaskMoved):
                self.run(claim(old, ready, old_epoch, tag=tag))
        if not noticed:
            self.run(self.notice(old))

    @some(*(set(S) - {S.READY}))
    @rule(pick=PICK)
    def send_what_is_not_ready(self, pick: int) -> None:
        task = self.task_at(pick, *(set(S) - {S.READY}))
        if task is not None:
            with pytest.raises(TaskMoved):
                self.run(claim(self.writer, task, self.epoch))

    @some()
    @rule(pick=PICK, state=st.sampled_from(S))
    def step_where_no_way_leads(self, pick: int, state: TaskState) -> None:
        task = self.task_at(pick)
        if task is not None and state not in TRANSITIONS[task.state]:
            with pytest.raises((InvariantViolatedError, TaskMoved)):
                self.record(task, state)

    @some(S.UNKNOWN)
    @rule(pick=PICK, state=st.sampled_from([S.READY, S.SENDING, S.EXPIRED, S.CANCELLED_LOCAL]))
    def call_unsent_what_is_unknown(self, pick: int, state: TaskState) -> None:
        task = self.task_at(pick, S.UNKNOWN)
        if task is not None:
            with pytest.raises((InvariantViolatedError, TaskMoved)):
                self.record(task, state)

    @some()
    @rule(pick=PICK, state=st.sampled_from(S))
    def step_from_what_was(self, pick: int, state: TaskState) -> None:
        task = self.task_at(pick)
        if task is not None and task.version > 1:
            before = dataclasses.replace(task, version=task.version - 1)
            with pytest.raises((InvariantViolatedError, TaskMoved)):
                self.record(before, state)

    # --- the broker -----------------------------------------------------------------------------

    @precondition(lambda self: self.orders)
    @rule(pick=PICK, status=st.sampled_from(INTERIM + ENDS), more=st.integers(0, 40))
    def live(self, pick: int, status: str, more: int) -> None:
        """An order goes on: fills only grow, and what has ended stays so."""
        order = self.orders[pick % len(self.orders)]
        last = order.rows[-1]
        if last.status in ENDS:
            return
        filled = min(last.filled_quantity + more, QUANTITY)
        is_whole = filled == QUANTITY
        if status == "COMPLETE" or is_whole:
            status, filled = "COMPLETE", QUANTITY
        if status == "REJECTED" and filled:
            status = "CANCELLED"
        order.rows.append(_row(last.order_id, order.tag, status, filled))

    @precondition(lambda self: self.orders)
    @rule(pick=PICK, which=PICK)
    def tell(self, pick: int, which: int) -> None:
        """A row comes in, be it the newest or one of long ago, for the first time or again."""
        order = self.orders[pick % len(self.orders)]
        self._merge(order, order.rows[which % len(order.rows)])

    @some(S.UNKNOWN)
    @rule(pick=PICK)
    def settle(self, pick: int) -> None:
        """The book holds it, or proves that there is nothing."""
        task = self.task_at(pick, S.UNKNOWN)
        if task is None:
            return
        order = next((each for each in self.orders if each.tag == task.tag), None)
        if order is None:
            self.record(task, S.NOT_PLACED)
        else:
            self._merge(order, order.rows[-1])

    def _merge(self, order: AtBroker, row: BrokerOrder) -> None:
        task = self.run(self.writer.tasks_by_tag(ACCOUNT, [order.tag])).get(order.tag)
        assert task is not None, "I4: an order at the broker has its intent"
        update = merge(task, row)
        if update is None:
            return
        moved = self.keep(self.run(self.writer.record(task, update, now_ns=NOON_NS)))
        assert merge(moved, row) is None, "I7: the same row twice is no news"
        if task.state in {S.FILLED, S.CANCELLED}:
            grows = moved.filled_quantity > task.filled_quantity
            assert grows or moved.state is task.state, "I7: a stale row brought it back"

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def every_step_is_one_of_those_there_are(self) -> None:
        """I7, I9: numbered without a gap, versions too, and each step leads somewhere it may."""
        if not hasattr(self, "runner"):
            return
        events = self.run(self.other.events_after(ACCOUNT, 0, limit=10_000))
        assert [event.account_seq for event in events] == list(range(1, len(events) + 1))
        by_task: dict[uuid.UUID, list[OrderEvent]] = defaultdict(list)
        for event in events:
            by_task[event.task_id].append(event)
        for task_id, told in by_task.items():
            assert [event.version for event in told] == list(range(1, len(told) + 1))
            replayed = replay(told)
            now = self.read(task_id)
            assert differences(replayed, now, replayed.attempts) == [], "I9: replay = live"
            for before, after in itertools.pairwise(told):
                assert S(after.state) in TRANSITIONS[S(before.state)], (before, after)
            assert told[-1].state == self.read(task_id).state

    @invariant()
    def nothing_is_there_twice_or_without_an_intent(self) -> None:
        """I1, I4, I5, I6."""
        if not hasattr(self, "runner"):
            return
        placed: dict[uuid.UUID, list[str]] = defaultdict(list)
        for order in self.orders:
            task = self.run(self.other.tasks_by_tag(ACCOUNT, [order.tag])).get(order.tag)
            assert task is not None, "I4"
            placed[task.task_id].append(order.rows[0].order_id)
            assert task.filled_quantity <= order.rows[-1].filled_quantity, "I5"
            assert task.state is not S.NOT_PLACED, "I1: called not placed, and is there"
        assert all(len(order_ids) == 1 for order_ids in placed.values()), f"I1: {placed}"
        assert self.epochs == sorted(self.epochs), "I6"
        for task_id, _ in self.asked.values():
            task = self.read(task_id)
            assert task.filled_quantity >= self.filled[task_id], "I5: it fell"
            self.filled[task_id] = task.filled_quantity

    def teardown(self) -> None:
        """Tell the whole book; then journal and broker agree (I3, I5)."""
        if not hasattr(self, "runner"):
            return
        try:
            self.take_over(noticed=True)
            for order in self.orders:
                self._merge(order, order.rows[-1])
            for _ in self.asked:
                self.settle(0)
            self._agree()
        finally:
            self.run(self.writer.close())
            self.run(self.other.close())
            self.runner.close()

    def _agree(self) -> None:
        for task_id, _ in self.asked.values():
            task = self.read(task_id)
            assert task.state not in IN_DOUBT, f"I3: left {task.state}"
        for order in self.orders:
            task = self.run(self.other.tasks_by_tag(ACCOUNT, [order.tag])).get(order.tag)
            assert task is not None
            last = order.rows[-1]
            assert (task.broker_order_id, task.filled_quantity) == (
                last.order_id,
                last.filled_quantity,
            ), "I5"
            assert task.state is state_of(last), f"I5: {task.state} {last.status}"


def _row(order_id: str, tag: str, status: str, filled: int) -> BrokerOrder:
    return BrokerOrder(
        order_id=order_id,
        status=status,
        tags=(tag,),
        exchange="NFO",
        tradingsymbol="NIFTY26JAN25000CE",
        transaction_type="BUY",
        order_type="LIMIT",
        product="NRML",
        variety="regular",
        quantity=QUANTITY,
        price=Decimal(100),
        trigger_price=Decimal(0),
        filled_quantity=filled,
        average_price=Decimal(100) + filled if filled else Decimal(0),
        user_id="AB1234",
        order_timestamp="",
        exchange_update_timestamp="",
        status_message="",
        parent_order_id="",
    )
