"""The verdict on exactly-once effect: callers' history x journal x what really reached the broker.

Pure, and the same for every way of playing: the simulation at virtual time, the crash campaign and
the chaos loop bring their records into the shapes below. Each check returns one sentence per
violation, with the number of the invariant it breaks (docs/invariants.md). The broker's record is
the truth: the journal may neither know less nor claim more.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain.order_state import (
    IN_DOUBT,
    JOB_OPEN,
    LIVE,
    TERMINAL,
    TRANSITIONS,
    UNSENT,
)
from ticker_service.domain.order_state import TaskState as S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

PAISA: Final = Decimal("0.01")
NEVER_AT_BROKER: Final = frozenset(
    {
        S.NOT_PLACED,
        S.EXPIRED,
        S.CANCELLED_LOCAL,
        S.REJECTED_LOCAL,
        S.REJECTED,
        S.MANUAL,
        S.FAILED_OVER,
    }
)
"""How an order may end that the broker never had."""
UNRESOLVED: Final = UNSENT | IN_DOUBT
LOOKED_NS_MAX: Final = 6 * NS_PER_S
"""So long before an exit is called done its last reading began at the most."""
REPEATABLE: Final = frozenset({"NOT_SENT", "THROTTLED", "REJECTED_AUTH"})
"""Outcomes after which an instruction may be sent once more: nothing happened at the broker."""


COVER_EXIT: Final = "COVER_EXIT"
"""The kind of a request that closes a cover order's position, by its stop; for us it is a cancel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a caller was told about one request; neither task nor code when no answer came."""

    principal: str
    request_id: str
    body: str
    task_id: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One instruction as the journal has it in the end; ``form`` is its body field by field."""

    task_id: str
    kind: str
    principal: str
    request_id: str
    body: str
    state: S
    version: int
    broker_order_id: str | None
    filled_quantity: int
    average_price: Decimal | None
    target_task_id: str = ""
    job_id: str = ""
    leg: int = 0
    hop: int = 0
    form: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    positions: tuple[str, ...] = ()
    """Of an exit: what it closes, exchange, symbol and product with colons between."""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.request_id}"

    @property
    def asks(self) -> str:
        """Return what the broker is asked to do."""
        return COVER_EXIT if self.kind == "CANCEL" and "exit" in self.form else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One committed intent; times are ns, on the same clock as the broker's."""

    task_id: str
    attempt: int
    tag: str
    writer_epoch: int
    intent_at_ns: int
    send_not_after_ns: int
    account_seq: int = 0
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact of the journal, in the order of its ``account_seq``."""

    account_seq: int
    task_id: str
    version: int
    state: S
    event: str
    filled_quantity: int | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One request to change something, as it reached the broker.

    ``target`` is the order id of a change or cancel, ``order_id`` the order that a placement made.
    ``left_at_ns`` is when the daemon let go of it, 0 if that is not known.
    """

    kind: str
    at_ns: int
    took_effect: bool
    tag: str = ""
    target: str = ""
    order_id: str = ""
    body: str = ""
    left_at_ns: int = 0


@dataclass(slots=True, kw_only=True)
class AtBroker:
    """One order as the broker has it in the end.

    An iceberg is one, with the sum of its legs. ``parent_order_id`` is the first leg that a cover
    order's stop is of.
    """

    order_id: str
    tag: str
    parent_order_id: str = ""
    status: str = ""
    filled_quantity: int = 0
    value_inr: Decimal = Decimal(0)

    @property
    def state(self) -> S:
        """The journal's word for it."""
        ended = {"COMPLETE": S.FILLED, "CANCELLED": S.CANCELLED, "REJECTED": S.REJECTED}
        if self.status in ended:
            return ended[self.status]
        if self.filled_quantity:
            return S.PARTIAL
        return S.WORKING if self.status in {"OPEN", "TRIGGER PENDING"} else S.ACKED

    @property
    def average_price(self) -> Decimal | None:
        return self.value_inr / self.filled_quantity if self.filled_quantity else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What was held of a position from one fill on, on the broker's clock; the order's id."""

    at_ns: int
    order_id: str
    quantity: int


@dataclass(kw_only=True)
class Records:
    """Everything that was written down about one play.

    ``delivered`` is what each sink of events got, by its name. ``doubts_allowed`` says that the
    book was made to lack tags: then an order may be left to a person. ``cancels_all`` says that a
    kill switch, or an exit, had whatever was open cancelled, which asks for no intent.
    ``holdings`` is what was held of each position by every fill, ``ended_ns`` when jobs ended, by
    the broker's clock; both are empty where nobody wrote them down. ``without_tag`` are the orders
    of another app: symbol, side and quantity.
    """

    told: list[Told] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    orders: dict[str, AtBroker] = field(default_factory=dict)
    delivered: dict[str, list[tuple[int, str, int]]] = field(default_factory=dict)
    doubts_allowed: bool = False
    cancels_all: bool = False
    holdings: Mapping[str, list[Held]] = field(default_factory=dict)
    ended_ns: Mapping[str, int] = field(default_factory=dict)
    without_tag: Collection[tuple[str, str, int]] = ()

    def __post_init__(self) -> None:
        self.by_id = {task.task_id: task for task in self.tasks}
        self.attempts_of: dict[str, list[Attempt]] = defaultdict(list)
        for attempt in sorted(self.attempts, key=lambda each: each.attempt):
            self.attempts_of[attempt.task_id].append(attempt)
        self.orders_by_job: dict[str, list[Task]] = defaultdict(list)
        for task in self.tasks:
            if task.job_id and task.kind == "PLACE":
                self.orders_by_job[task.job_id].append(task)
        self.events_of: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            self.events_of[event.task_id].append(event)
        self.placed: dict[str, list[AtBroker]] = defaultdict(list)
        self.stops_of: dict[str, list[AtBroker]] = defaultdict(list)
        for order in self.orders.values():
            if order.parent_order_id:
                self.stops_of[order.parent_order_id].append(order)
            else:
                self.placed[order.tag].append(order)

    def orders_of(self, task: Task) -> list[AtBroker]:
        """Return the broker's orders that any attempt of a placement made."""
        return [
            order
            for attempt in self.attempts_of[task.task_id]
            for order in self.placed[attempt.tag]
        ]

    def kinds(self, kind: str) -> list[Task]:
        return [task for task in self.tasks if task.kind == kind]


def violations(records: Records) -> list[str]:
    """Return every promise that was not kept, once all is quiet."""
    return [sentence for check in CHECKS for sentence in check(records)]


def doubled(records: Records) -> list[str]:
    """I1: at most one order per attempt, and at most one per task."""
    found = [
        f"I1: tag {tag} became the orders {[order.order_id for order in orders]}"
        for tag, orders in records.placed.items()
        if len(orders) > 1
    ]
    for task in records.kinds("PLACE"):
        orders = [order.order_id for order in records.orders_of(task)]
        if len(orders) > 1:
            found.append(f"I1: {task.name} became the orders {orders}")
    return found


def keys_name_one_task(records: Records) -> list[str]:
    """I2: same key and body, same task; same key and other body, a conflict without effect."""
    found = []
    journalled: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in records.tasks:
        journalled[task.principal, task.request_id].append(task)
    for key, tasks in journalled.items():
        if len(tasks) > 1:
            found.append(f"I2: key {key} names {len(tasks)} tasks")
    for told in records.told:
        tasks = journalled[told.principal, told.request_id]
        if (
            told.task_id
            and tasks
            and (tasks[0].task_id, tasks[0].body) != (told.task_id, told.body)
        ):
            found.append(
                f"I2: {told.request_id} asks {told.body} and was told {told.task_id}, the journal "
                f"has {tasks[0].task_id} with {tasks[0].body}"
            )
        if told.code == "IDEMPOTENCY_CONFLICT" and tasks and tasks[0].body == told.body:
            found.append(f"I2: {told.request_id} was told of a conflict with its own body")
    return found


def acknowledged_is_durable(records: Records) -> list[str]:
    """I3: what was acknowledged is in the journal."""
    return [
        f"I3: {told.request_id} was acknowledged as {told.task_id}, which is not in the journal"
        for told in records.told
        if told.task_id and told.task_id not in records.by_id
    ]


def unsettled(records: Records) -> list[str]:
    """I3, I5: everything has ended or rests, and journal and broker agree on each order."""
    found = []
    for task in records.tasks:
        if task.state in UNRESOLVED:
            found.append(f"I3: {task.name} is left {task.state}")
        elif task.state in JOB_OPEN:
            found += _left_open(task, records)
        elif task.kind == "PLACE":
            found += _disagreement(task, records)
    return found


def _left_open(job: Task, records: Records) -> list[str]:
    """Return whether a job is open although nothing of it rests, or rests although it stopped."""
    rests = [each for each in records.orders_by_job[job.task_id] if each.state in LIVE]
    if rests and job.state is S.RUNNING and job.kind != "EXIT":
        return []
    return [f"I3: {job.name} is left {job.state}, {len(rests)} of its orders rest"]


def _disagreement(task: Task, records: Records) -> list[str]:
    orders = records.orders_of(task)
    if not orders:
        if task.state in NEVER_AT_BROKER and task.broker_order_id is None:
            return []
        return [f"I5: {task.name} is {task.state}, and the broker has no order of its tags"]
    order = orders[0]
    is_average_right = (order.average_price is None) == (task.average_price is None) and (
        order.average_price is None
        or task.average_price is None
        or abs(order.average_price - task.average_price) < PAISA
    )
    journal = (task.broker_order_id, task.state, task.filled_quantity)
    broker = (order.order_id, order.state, order.filled_quantity)
    if journal == broker and is_average_right:
        return []
    prices = f"at {task.average_price} and {order.average_price}"
    return [f"I5: {task.name}: journal {journal}, broker {broker}, {prices}"]


def left_to_a_person(records: Records) -> list[str]:
    """I3: an end as MANUAL needs a book that could not be read for what it was.

    An exit may be given up; whether it was right to is not told here.
    """
    if records.doubts_allowed:
        return []
    people = {S.MANUAL, S.ESCALATED}
    return [
        f"I3: {task.name} is {task.state}"
        for task in records.tasks
        if task.state in people and task.kind != "EXIT" and not _is_unprovable(task, records)
    ]


def _is_unprovable(task: Task, records: Records) -> bool:
    """Return whether no book can tell what became of it.

    It changes what the book does not show, or another app has an order that looks like it.
    """
    if task.kind == "MODIFY":
        return task.code == "NOT_SHOWN"
    asked = task.form.get("tradingsymbol", ""), task.form.get("transaction_type", "")
    return (*asked, int(task.form.get("quantity", 0))) in records.without_tag


def intent_comes_first(records: Records) -> list[str]:
    """I4: one POST per tag, each after its intent was committed, and what it says is its body."""
    by_tag = {attempt.tag: attempt for attempt in records.attempts}
    counts = Counter(post.tag for post in records.posts if post.kind == "PLACE")
    found = [f"I4: tag {tag} was posted {n} times" for tag, n in counts.items() if n > 1]
    for post in records.posts:
        if post.kind != "PLACE":
            continue
        attempt = by_tag.get(post.tag)
        if attempt is None:
            found.append(f"I4: tag {post.tag} was posted without an intent")
        elif post.at_ns < attempt.intent_at_ns:
            found.append(f"I4: tag {post.tag} was posted before its intent")
        elif attempt.body and post.body and attempt.body != post.body:
            found.append(f"I4: tag {post.tag} was posted as {post.body} for {attempt.body}")
    return found


def never_sent_again_in_doubt(records: Records) -> list[str]:
    """I1, I4: a further attempt needs an outcome that proves the one before had no effect."""
    found = []
    for task in records.tasks:
        outcomes = [event.outcome for event in records.events_of[task.task_id] if event.outcome]
        for number, attempt in enumerate(records.attempts_of[task.task_id][:-1]):
            outcome = outcomes[number] if number < len(outcomes) else "no outcome"
            if outcome not in REPEATABLE:
                found.append(f"I1: {task.name} was sent again after {outcome}")
            if records.placed[attempt.tag]:
                found.append(f"I1: {task.name} was sent again, and the first try is an order")
    return found


def refused_means_no_order(records: Records) -> list[str]:
    """I1: who is told that an order was not placed may place another, so it must be true."""
    found = []
    for task in records.kinds("PLACE"):
        orders = records.orders_of(task)
        for event in records.events_of[task.task_id]:
            is_denied = event.state in {S.NOT_PLACED, S.EXPIRED, S.CANCELLED_LOCAL, S.FAILED_OVER}
            if orders and (is_denied or event.outcome == "REJECTED"):
                found.append(
                    f"I1: {task.name} was called {event.state}, and is order {orders[0].order_id}"
                )
    return found


def requests_tell_the_truth(records: Records) -> list[str]:
    """I5: a change or cancel that is called without effect had none; one called done was done."""
    found = []
    effects: dict[tuple[str, str], int] = Counter()
    asked: dict[tuple[str, str], int] = Counter()
    for post in records.posts:
        asked[post.kind, post.target] += 1
        effects[post.kind, post.target] += post.took_effect
    sent: dict[tuple[str, str], int] = Counter()
    groups: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in records.tasks:
        target = records.by_id.get(task.target_task_id)
        if target is not None and target.broker_order_id is not None:
            key = (task.asks, target.broker_order_id)
            groups[key].append(task)
            sent[key] += len(records.attempts_of[task.task_id])
    for key, tasks in groups.items():
        kind, order_id = key
        is_ours = kind != "CANCEL" or not records.cancels_all
        if asked[key] > sent[key] and is_ours:
            found.append(f"I4: {order_id} got {asked[key]} {kind} requests of {sent[key]} intents")
        done = sum(task.state is S.ACKED for task in tasks)
        if kind == "CANCEL" and done and not effects[key]:
            order = records.orders[order_id]
            if order.state is not S.CANCELLED:
                found.append(f"I5: a cancel of {order_id} is called done, and none had an effect")
        stands = [stop.order_id for stop in records.stops_of[order_id] if stop.state in LIVE]
        if kind == COVER_EXIT and done and len(stands) == len(records.stops_of[order_id]):
            found.append(f"I5: an exit of {order_id} is called done, and {stands} still stand")
        denied = [task.name for task in tasks if task.state is S.NOT_PLACED]
        if denied and is_ours and effects[key] > len(tasks) - len(denied):
            found.append(f"I5: {denied} are called without effect, and {effects[key]} had one")
    return found


def one_writer_at_a_time(records: Records) -> list[str]:
    """I6: intents are committed under epochs that only rise, and sent within their window."""
    found = []
    newest = 0
    for attempt in sorted(records.attempts, key=lambda each: each.account_seq):
        if attempt.writer_epoch < newest:
            found.append(f"I6: tag {attempt.tag} was intended under {attempt.writer_epoch}")
        newest = max(newest, attempt.writer_epoch)
    by_tag = {attempt.tag: attempt for attempt in records.attempts}
    for post in records.posts:
        attempt = by_tag.get(post.tag)
        if attempt is not None and post.left_at_ns > attempt.send_not_after_ns:
            found.append(f"I6: tag {post.tag} left after its window had closed")
    return found


def stops_close_no_more_than_was_opened(records: Records) -> list[str]:
    """I19: a cover order's stop is of an order of ours and never closes more than that filled."""
    found = []
    for first_id, stops in records.stops_of.items():
        first = records.orders.get(first_id)
        opened = first.filled_quantity if first is not None else 0
        closed = sum(stop.filled_quantity for stop in stops)
        if closed > opened:
            found.append(f"I19: {closed} were closed of {first_id}, and {opened} opened")
    return found


def parts_within_the_whole(records: Records) -> list[str]:
    """I13: what reached the broker of a leg is never more than was asked of it."""
    found = []
    for job in records.tasks:
        if job.kind == "EXIT":
            continue  # what it may send follows from the position, and it sends again what is left
        sums: dict[int, int] = Counter()
        for order in records.orders_by_job[job.task_id]:
            reached = records.orders_of(order)
            # What the broker refused was never at the market.
            if any(each.state is not S.REJECTED or each.filled_quantity for each in reached):
                sums[order.leg] += int(order.form["quantity"])
        for leg, total in sums.items():
            whole = int(job.form.get(f"legs.{leg}.quantity", "0"))
            if total > whole:
                found.append(f"I13: leg {leg} of {job.name} is {whole}, and {total} were sent")
    return found


def baskets_keep_their_word(records: Records) -> list[str]:
    """I18: SELLs after BUYs if asked, nothing journalled or at rest of a job that has stopped."""
    found = []
    for job in records.tasks:
        orders = records.orders_by_job[job.task_id]
        stopped = _first(records.events_of[job.task_id], S.STOPPING)
        begun = {each.task_id: records.events_of[each.task_id][0].account_seq for each in orders}
        if stopped is not None and any(seq > stopped for seq in begun.values()):
            found.append(f"I18: an order of {job.name} was journalled after it had stopped")
        rests = [each.name for each in orders if each.state in LIVE]
        if job.state is S.DONE and rests:
            found.append(f"I18: {job.name} is done, and {rests} rest")
        failed = [each.name for each in orders if each.state in NEVER_AT_BROKER | {S.CANCELLED}]
        is_all = job.form.get("mode") == "all_or_compensate"
        if is_all and failed and job.state is S.DONE and stopped is None:
            found.append(f"I18: {failed} of {job.name} failed, and it went on")
        if job.form.get("buys_first") == "true":
            found += _sells_before_buys(job, orders, records)
    return found


def exits_close_and_no_more(records: Records) -> list[str]:
    """I19: an exit ends, flat or with nothing of it left open, and turns no position round."""
    found = []
    ours = {}
    for job in records.kinds("EXIT"):
        orders = records.orders_by_job[job.task_id]
        ours |= {each.order_id: task for task in orders for each in records.orders_of(task)}
        if job.state not in {S.DONE, S.ESCALATED}:
            found.append(f"I19: {job.name} is left {job.state}")
            continue
        if job.code != "COULD_NOT_CANCEL":
            found += _left_behind(job, orders, records)
        if job.state is S.DONE:
            found += _not_flat(job, records)
    for position, holdings in records.holdings.items():
        for number, (before, after) in enumerate(itertools.pairwise(holdings), 1):
            order = ours.get(after.order_id)
            if order is None or 0 <= after.quantity * before.quantity < before.quantity**2:
                continue
            if not _was_overtaken(order, holdings[:number], ours, records):
                change = f"{before.quantity} to {after.quantity}"
                found.append(f"I19: {order.name} brought {position} from {change}")
    return found


def _left_behind(job: Task, orders: list[Task], records: Records) -> list[str]:
    """Return which orders of an exit were open when it ended, or came after it."""
    ended = records.events_of[job.task_id][-1].account_seq
    found = []
    for order in orders:
        before = [each for each in records.events_of[order.task_id] if each.account_seq < ended]
        if not before:
            found.append(f"I19: {order.name} came after the end of {job.name}")
        elif before[-1].state not in TERMINAL:
            found.append(f"I19: {job.name} ended, and {order.name} was {before[-1].state}")
        rests = [each.order_id for each in records.orders_of(order) if each.state in LIVE]
        if rests:
            found.append(f"I19: {job.name} is {job.state}, and {rests} rest")
    return found


def _not_flat(job: Task, records: Records) -> list[str]:
    """Return what an exit called closed that was open all the while before."""
    ended_ns = records.ended_ns.get(job.task_id)
    if ended_ns is None:
        return []
    found = []
    for position in job.positions:
        holdings = records.holdings.get(position, [])
        until = [*(each.at_ns for each in holdings[1:]), ended_ns + 1]
        was_flat = not holdings or any(
            not each.quantity and each.at_ns <= ended_ns and end_ns >= ended_ns - LOOKED_NS_MAX
            for each, end_ns in zip(holdings, until, strict=True)
        )
        if not was_flat:
            found.append(f"I19: {job.name} is done, and {position} was not flat")
    return found


def _was_overtaken(
    order: Task, before: list[Held], ours: Mapping[str, Task], records: Records
) -> bool:
    """Return whether another hand has traded a position since an exit's order was intended.

    No look can see what comes after it; docs/exits.md names that as the limit.
    """
    since_ns = min(each.intent_at_ns for each in records.attempts_of[order.task_id])
    return any(each.order_id not in ours and each.at_ns >= since_ns for each in before)


def _sells_before_buys(job: Task, orders: list[Task], records: Records) -> list[str]:
    sides = {True: "BUY", False: "SELL"}
    by_side = {
        is_buy: [each for each in orders if each.form["transaction_type"] == side]
        for is_buy, side in sides.items()
    }
    if not by_side[False]:
        return []
    legs = {name.split(".")[1] for name, text in job.form.items() if text == "BUY"}
    filled = [_first(records.events_of[each.task_id], S.FILLED) for each in by_side[True]]
    sold = min(records.events_of[each.task_id][0].account_seq for each in by_side[False])
    if len({each.leg for each in by_side[True]}) < len(legs) or None in filled:
        return [f"I18: a SELL of {job.name} left, and not every BUY is filled"]
    if any(seq is not None and seq > sold for seq in filled):
        return [f"I18: a SELL of {job.name} left before every BUY was filled"]
    return []


def _first(events: Iterable[Event], state: S) -> int | None:
    return next((event.account_seq for event in events if event.state is state), None)


def facts_only_grow(records: Records) -> list[str]:
    """I5, I7: legal steps, no version skipped, fills never fall, an end gives way to facts only."""
    found = []
    for task in records.tasks:
        before: Event | None = None
        filled = 0
        for event in records.events_of[task.task_id]:
            version = before.version if before else 0
            if event.version != version + 1:
                found.append(f"I7: {task.name} goes from version {version} to {event.version}")
            if before is not None and event.state not in TRANSITIONS[before.state]:
                found.append(f"I7: {task.name} goes from {before.state} to {event.state}")
            if event.filled_quantity is not None and event.filled_quantity < filled:
                found.append(f"I5: {task.name} fell from {filled} to {event.filled_quantity}")
            filled = max(filled, event.filled_quantity or 0)
            if before is not None and before.state is S.FILLED:
                found.append(f"I7: {task.name} was FILLED and became {event.state}")
            before = event
        if before is None or (before.version, before.state) != (task.version, task.state):
            found.append(f"I5: {task.name} is {task.state} at {task.version}, its events differ")
    return found


def events_reach_their_sinks(records: Records) -> list[str]:
    """I9: numbered without a gap, each delivered at least once, in order but for repeats."""
    numbers = [event.account_seq for event in records.events]
    found = []
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"I9: account_seq is {numbers}")
    expected = [(event.account_seq, event.task_id, event.version) for event in records.events]
    for sink, got in records.delivered.items():
        seen: list[tuple[int, str, int]] = []
        for each in got:
            if each[0] > len(seen) + 1:
                found.append(f"I9: {sink} got {each[0]} after {len(seen)}")
            if each[0] == len(seen) + 1:
                seen.append(each)
        if seen != expected:
            found.append(f"I9: {sink} got {len(seen)} events of {len(expected)}, or others")
    return found


CHECKS: Final[tuple[Callable[[Records], list[str]], ...]] = (
    doubled,
    keys_name_one_task,
    acknowledged_is_durable,
    unsettled,
    left_to_a_person,
    intent_comes_first,
    never_sent_again_in_doubt,
    refused_means_no_order,
    requests_tell_the_truth,
    one_writer_at_a_time,
    parts_within_the_whole,
    stops_close_no_more_than_was_opened,
    baskets_keep_their_word,
    exits_close_and_no_more,
    facts_only_grow,
    events_reach_their_sinks,
)


def one_place_over_accounts(accounts: Mapping[str, Records], told: Iterable[Told]) -> list[str]:
    """I8: an instruction is on one account at a time, and at one broker at most; I2 over all.

    Args:
        accounts: The records of each account of a group, without what callers were told.
        told: What they were told, of whichever account.
    """
    found = []
    lineages: dict[tuple[str, str], list[tuple[str, Task]]] = defaultdict(list)
    for account, records in accounts.items():
        for task in records.tasks:
            lineages[task.principal, task.request_id].append((account, task))
    for (_, request_id), lineage in lineages.items():
        lineage.sort(key=lambda each: each[1].hop)
        if [task.hop for _, task in lineage] != list(range(len(lineage))):
            found.append(f"I2: {request_id} is {[task.name for _, task in lineage]}")
        if len({account for account, _ in lineage}) < len(lineage):
            found.append(f"I8: {request_id} came to an account twice")
        left = [task.state for _, task in lineage[:-1]]
        if set(left) - {S.FAILED_OVER, S.REJECTED}:
            found.append(f"I8: {request_id} goes on although it is {left}")
        orders = [
            f"{account} {order.order_id}"
            for account, task in lineage
            if task.kind == "PLACE"
            for order in accounts[account].orders_of(task)
        ]
        if len(orders) > 1:
            found.append(f"I8: {request_id} became the orders {orders}")
    return found + _told_of_lineages(lineages, told)


def _told_of_lineages(
    lineages: Mapping[tuple[str, str], list[tuple[str, Task]]], told: Iterable[Told]
) -> list[str]:
    found = []
    for each in told:
        known = [task for _, task in lineages.get((each.principal, each.request_id), [])]
        is_known = (each.task_id, each.body) in {(task.task_id, task.body) for task in known}
        if each.task_id and not is_known:
            found.append(f"I2: {each.request_id} was told {each.task_id}, which is not its own")
        if each.code == "IDEMPOTENCY_CONFLICT" and any(task.body == each.body for task in known):
            found.append(f"I2: {each.request_id} was told of a conflict with its own body")
    return found


def reached_broker(records: Records) -> int:
    """Return how many orders the broker has."""
    return sum(bool(records.orders_of(task)) for task in records.kinds("PLACE"))


def states(tasks: Iterable[Task]) -> Counter[str]:
    return Counter(task.state.value for task in tasks)
