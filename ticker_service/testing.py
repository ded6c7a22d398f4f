"""In-memory stand-ins for the engine's ports, held to the same contract tests as the real adapters.

For this project's tests and for anyone who embeds the engine.
"""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ticker_service.domain import order_events
from ticker_service.domain.breaker import KeptBreaker
from ticker_service.domain.order import (
    JOBS,
    Account,
    BrokerOrder,
    IcebergLeg,
    OrderChange,
    OrderEvent,
    OrderRequest,
    OrderTask,
    Side,
    TaskKind,
    says_the_same,
)
from ticker_service.domain.order_state import (
    AT_BROKER,
    FAILED,
    IN_DOUBT,
    JOB_OPEN,
    LIVE,
    TRANSITIONS,
    UNSENT,
    TaskState,
    first_state,
    present_of,
)
from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade, PositionKey
from ticker_service.domain.risk import DENIALS_KEPT, KeptLimits
from ticker_service.domain.risk_input import OrderMargin
from ticker_service.errors import (
    AccountTaken,
    BrokerUnavailable,
    ConfigurationError,
    IdempotencyConflict,
    InvariantViolatedError,
    JournalUnavailable,
    LoginRequired,
    OrderRefused,
    PublishError,
    RecordingError,
    TaskMoved,
)
from ticker_service.ports import (
    NO_TURN,
    Admitted,
    Frame,
    PastOrder,
    PastSend,
    RecordedFile,
    Reply,
    Withheld,
)

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from ticker_service.domain.breaker import BreakerStep
    from ticker_service.domain.halt import Halt, HaltCode
    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.domain.kill_switch import KillScope, KillSwitch
    from ticker_service.domain.order import NewTask, TaskUpdate, Variety
    from ticker_service.domain.risk import RiskDenial, RiskTable
    from ticker_service.domain.tick import Mode
    from ticker_service.ports import FeedEvent, FeedSink, Outgoing, TaskFollower
    from ticker_service.runtime.clock import Clock

NAME_CHARACTERS_MAX: Final = 200


class FixedCatalog:
    """An ``InstrumentCatalog`` that always returns the same dump."""

    def __init__(self, table: InstrumentTable) -> None:
        self._table = table

    async def fetch(self) -> InstrumentTable:
        """Return the dump it was made with."""
        return self._table


class MemoryPublisher:
    """A ``TickPublisher`` that keeps what it is given; ``is_down`` makes it refuse."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.values: dict[str, bytes] = {}
        self.is_down = False
        self.is_closed = False
        self.attempts = 0

    async def send(self, outgoing: Outgoing) -> None:
        """Keep the messages, or raise ``PublishError`` while down, keeping none of them."""
        self.attempts += 1
        if self.is_down:
            raise PublishError("Redis did not confirm: told to be down")
        self.messages.extend((channel, bytes(message)) for channel, message in outgoing.messages)
        self.values.update((key, bytes(value)) for key, value, _ in outgoing.values)

    async def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


class ScriptedFeed:
    """A ``FeedSource`` that hands on what a test gives it, as one connection numbered 0."""

    def __init__(self) -> None:
        self.wanted: dict[int, Mode] = {}
        self.renewed: list[int] = []
        self._sink: FeedSink | None = None
        self._running = asyncio.Event()

    def want(self, modes: Mapping[int, Mode]) -> None:
        """Remember what is wanted."""
        self.wanted = dict(modes)

    def connection_of(self, instrument_token: int) -> int | None:
        """Return 0 for everything that is wanted."""
        return 0 if instrument_token in self.wanted else None

    def renew(self, connection: int) -> None:
        """Remember which connections were to be renewed."""
        self.renewed.append(connection)

    async def run(self, sink: FeedSink) -> None:
        """Hand on to ``sink`` until cancelled."""
        self._sink = sink
        self._running.set()
        await asyncio.Event().wait()

    async def receive(self, *items: Frame | FeedEvent) -> None:
        """Act as if the broker had sent these, in order."""
        await self._running.wait()
        if self._sink is None:  # pragma: no cover - the event above says otherwise
            raise AssertionError("Invariant: running without a sink")
        for item in items:
            if isinstance(item, Frame):
                self._sink.put_frame(item)
            else:
                self._sink.put_event(item)


class MemoryFolder:
    """A ``RecordFolder`` in memory, with as much room as it is told to have.

    ``is_broken`` makes every call fail; a write beyond ``free`` fails halfway, as on a full disk.
    """

    def __init__(self, free: int = 1 << 40) -> None:
        self.contents: dict[str, bytearray] = {}
        self.open: set[str] = set()
        self.free = free
        self.is_broken = False
        self.synced: dict[str, int] = {}

    async def append(self, name: str, parts: Iterable[bytes], *, sync: bool) -> int:
        """Keep the bytes, as far as there is room."""
        self._check()
        if name not in self.open and name in self.contents:
            raise RecordingError(f"{name}: there is such a file")
        self.open.add(name)
        content = self.contents.setdefault(name, bytearray())
        before = len(content)
        for part in parts:
            content += part[: self.free]
            self.free -= len(part)
            if self.free < 0:
                self.free = 0
                raise RecordingError(f"{name}: no room")
        if sync:
            self.synced[name] = len(content)
        return len(content) - before

    async def close(self, name: str) -> None:
        """Let go of a file."""
        self.open.discard(name)

    async def free_bytes(self) -> int:
        """Return the room that is left."""
        self._check()
        return self.free

    async def files(self) -> Sequence[RecordedFile]:
        """Return what is kept."""
        self._check()
        return [
            RecordedFile(name=name, size_bytes=len(content))
            for name, content in self.contents.items()
        ]

    async def delete(self, name: str) -> bool:
        """Delete a file that is not open."""
        self._check()
        if name in self.open:
            return False
        self.free += len(self.contents.pop(name))
        return True

    def _check(self) -> None:
        if self.is_broken:
            raise RecordingError("told to be broken")


class MemoryParts:
    """A ``ColumnParts`` in memory: ``whole`` and ``unfinished`` parts as the streams they got.

    ``is_broken`` makes every call but ``abandon`` fail.
    """

    def __init__(self) -> None:
        self.whole: dict[str, list[bytes]] = {}
        self.unfinished: dict[str, list[bytes]] = {}
        self.is_broken = False

    async def append(self, name: str, streams: Iterable[bytes]) -> int:
        """Keep the streams."""
        self._check(name)
        if name in self.whole:
            raise RecordingError(f"{name}: there is such a file")
        part = self.unfinished.setdefault(name, [])
        before = len(part)
        part.extend(streams)
        return sum(map(len, part[before:]))

    async def close(self, name: str) -> None:
        """Let a part appear."""
        self._check(name)
        self.whole[name] = self.unfinished.pop(name)

    async def abandon(self, name: str) -> None:
        """Drop an unfinished part."""
        self.unfinished.pop(name, None)

    def _check(self, name: str) -> None:
        if self.is_broken:
            raise RecordingError(f"{name}: told to be broken")


class MemoryKillStore:
    """A ``KillStore`` in memory; ``is_broken`` makes it refuse to keep anything."""

    def __init__(self) -> None:
        self.switches: dict[uuid.UUID, KillSwitch] = {}
        self.is_broken = False

    def standing(self) -> tuple[KillSwitch, ...]:
        """Return the switches that stand now, oldest first."""
        return tuple(each for each in self.switches.values() if each.stands)

    def throw(self, switch: KillSwitch) -> KillSwitch:
        """Add a switch, unless one alike stands."""
        self._check()
        for each in self.standing():
            if (each.scope, each.level) == (switch.scope, switch.level):
                return each
        self.switches[switch.switch_id] = switch
        return switch

    def release(self, scope: KillScope, *, by_whom: str, now_ns: int) -> list[KillSwitch]:
        """Release every switch of a scope and return them."""
        self._check()
        return _release(self.switches, scope, by_whom=by_whom, now_ns=now_ns)

    def _check(self) -> None:
        if self.is_broken:
            raise ConfigurationError("told to be broken")


@dataclass(slots=True, kw_only=True)
class JournalRecords:
    """What the journals of several processes share, as one database does."""

    tasks: dict[uuid.UUID, OrderTask]
    events: dict[Account, list[OrderEvent]]
    tags: dict[tuple[Account, str], uuid.UUID]
    attempts: list[OrderTask]
    epochs: dict[Account, int]
    holders: dict[Account, MemoryJournal]
    delivered: dict[tuple[Account, str], int]
    halts: dict[tuple[Account, HaltCode], Halt]
    outcomes: dict[tuple[uuid.UUID, int], str]
    breakers: list[tuple[float, BreakerStep]]
    kill_switches: dict[uuid.UUID, KillSwitch]
    risk_limits: list[KeptLimits]
    risk_denials: list[RiskDenial]
    day_bests: dict[tuple[Account, dt.date], Decimal]


class MemoryJournal:
    """An ``OrderJournal`` in memory, as strict as the database about what may follow what.

    ``is_down`` makes every call unavailable. ``before`` and ``after`` are awaited around each call
    with its name, so that a test can freeze it there or fail it: what ``after`` raises is a commit
    whose confirmation was lost. A journal made ``beside`` another is another process's: it has the
    same records and account locks of its own.
    """

    def __init__(
        self,
        *,
        beside: MemoryJournal | None = None,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        kept: JournalRecords = beside.shared if beside is not None else _no_records()
        self.tasks = kept.tasks
        self.events = kept.events
        self.tags = kept.tags
        self.attempts = kept.attempts
        """Each task as its intent was committed."""
        self.is_down = False
        self.is_closed = False
        self.taken_elsewhere: set[Account] = set()
        self.before: Callable[[str], Awaitable[None]] = _at_once
        self.after: Callable[[str], Awaitable[None]] = _at_once
        self.shared: Final[JournalRecords] = kept
        self._new_id = new_id
        self._held: dict[Account, int] = {}
        self._had: dict[Account, int] = {}
        """The newest epoch of each account, also after its lock was lost, until it is released."""
        self._lost: asyncio.Queue[Account] = asyncio.Queue()
        self._followers: dict[Account, TaskFollower] = {}
        self._hearers: dict[Account, Callable[[OrderEvent], None]] = {}

    # --- what a test does to it ---------------------------------------------------------------

    def lose_writer(
        self, account: Account, *, superseded: bool = False, is_noticed: bool = True
    ) -> None:
        """Act as if the session that holds an account's lock had died; another may have it.

        A loss that is not noticed leaves the process believing that it still holds the account,
        until this is called again.
        """
        self._unlock(account)
        if superseded:
            self.shared.epochs[account] += 1
        if is_noticed:
            self._held.pop(account, None)
            self._lost.put_nowait(account)

    def states(self, task_id: uuid.UUID) -> list[TaskState]:
        """Return the states a task has been in, in order."""
        events = (event for log in self.events.values() for event in log)
        return [event.state for event in events if event.task_id == task_id]

    # --- the port -----------------------------------------------------------------------------

    async def acquire(self, account: Account) -> int:
        """Become the account's one writer, or raise ``AccountTaken``."""
        await self._begin("acquire")
        holder = self.shared.holders.setdefault(account, self)
        if account in self.taken_elsewhere or holder is not self:
            raise AccountTaken(f"account={account}: another process has it, or was told to")
        epoch = self.shared.epochs.get(account, 0) + 1
        self.shared.epochs[account] = self._held[account] = self._had[account] = epoch
        await self.after("acquire")
        return epoch

    async def release(self, account: Account) -> None:
        """Stop being the account's writer."""
        self._unlock(account)
        self._held.pop(account, None)
        self._had.pop(account, None)

    def is_writer(self, account: Account) -> bool:
        """Return whether the account is held."""
        return account in self._held

    async def watch_writers(self, on_lost: Callable[[frozenset[Account]], None]) -> None:
        """Tell of every :meth:`lose_writer` until cancelled."""
        while True:
            on_lost(frozenset({await self._lost.get()}))

    def follow(self, account: Account, follower: TaskFollower) -> None:
        """Tell of every later write of ours to an account's tasks; the newest call counts."""
        self._followers[account] = follower

    def hear_events(self, account: Account, hear: Callable[[OrderEvent], None]) -> None:
        """Tell of the event of every later write of ours; the newest call counts."""
        self._hearers[account] = hear

    async def admit(self, new: NewTask) -> Admitted:
        """Keep an instruction in its first state, or return the one its key names."""
        await self._begin("admit")
        _refuse_unstorable(new)
        known = self._keyed(new)
        if known is not None:
            return Admitted(task=known, is_new=False)
        named = self._named(new.principal, new.client_order_id)
        if new.kind not in _ABOUT_AN_ORDER and named is not None:
            raise _conflict("client_order_id", new.client_order_id)
        if new.job_id is not None and not self._takes_part(new):
            raise TaskMoved(f"job_id={new.job_id}: it places no more, or has this part")
        self._append(_received(new), order_events.RECEIVED, order_events.received(new))
        await self._confirm("admit", self.tasks[new.task_id])
        return Admitted(task=self.tasks[new.task_id], is_new=True)

    async def adopt_orphan(
        self, new: NewTask, update: TaskUpdate, *, tag: str, sent_at_ns: int
    ) -> Admitted:
        """Keep an order of the broker's that has a tag of ours and no task."""
        if not self.is_writer(new.account):
            raise TaskMoved(f"account={new.account}: its lock is not ours")
        await self._begin("adopt_orphan")
        _refuse_unstorable(new)
        known = self._keyed(new)
        if known is not None:
            return Admitted(task=known, is_new=False)
        if (new.account, tag) in self.tags:
            raise TaskMoved(f"a task has the tag, tag={tag}")
        if self._named(new.principal, new.client_order_id) is not None:
            raise _conflict("client_order_id", new.client_order_id)
        epoch = self.shared.epochs[new.account]
        adopted = dataclasses.replace(
            _received(new),
            state=update.state,
            attempt=1,
            tag=tag,
            writer_epoch=epoch,
            intent_at_ns=sent_at_ns,
            send_not_after_ns=sent_at_ns,
            broker_order_id=update.broker_order_id,
            broker_status=update.broker_status,
            filled_quantity=update.filled_quantity or 0,
            average_price=update.average_price,
        )
        self.tags[new.account, tag] = new.task_id
        self.attempts.append(adopted)
        self.shared.outcomes[new.task_id, 1] = order_events.ADOPTED
        told = order_events.orphan_adopted(
            new, update, tag=tag, writer_epoch=epoch, sent_at_ns=sent_at_ns
        )
        self._append(adopted, order_events.ORPHAN_ADOPTED, told)
        await self._confirm("adopt_orphan", adopted)
        return Admitted(task=adopted, is_new=True)

    async def known(self, new: NewTask) -> OrderTask | None:
        """Return the task that an instruction's key already names."""
        await self._begin("known")
        _refuse_unstorable(new)
        return self._keyed(new)

    async def claim(
        self, task: OrderTask, *, tag: str, writer_epoch: int, now_ns: int, send_not_after_ns: int
    ) -> OrderTask:
        """Move READY to SENDING under the newest epoch and a tag that was never used."""
        if not self.is_writer(task.account):
            raise TaskMoved(f"account={task.account}: its lock is not ours")
        await self._begin("claim")
        present = self._unmoved(task)
        is_newest = writer_epoch == self.shared.epochs.get(task.account)
        if not is_newest or present.state is not TaskState.READY:
            raise TaskMoved(
                f"task_id={task.task_id} writer_epoch={writer_epoch}: not to be claimed"
            )
        if present.hop and any(
            each.hop < present.hop and each.state not in {TaskState.FAILED_OVER, TaskState.REJECTED}
            for each in self._lineage(present)
        ):
            raise TaskMoved(f"task_id={task.task_id}: what it goes on for is at its broker")
        if (task.account, tag) in self.tags:
            raise InvariantViolatedError(f"Invariant: a tag is used once, tag={tag}")
        self.tags[task.account, tag] = task.task_id
        moved = dataclasses.replace(
            present,
            state=TaskState.SENDING,
            version=present.version + 1,
            attempt=present.attempt + 1,
            tag=tag,
            writer_epoch=writer_epoch,
            intent_at_ns=now_ns,
            send_not_after_ns=send_not_after_ns,
            updated_at_ns=now_ns,
        )
        self.attempts.append(moved)
        intent = order_events.intent_recorded(
            present, tag=tag, writer_epoch=writer_epoch, send_not_after_ns=send_not_after_ns
        )
        self._append(moved, order_events.INTENT_RECORDED, intent)
        await self._confirm("claim", moved)
        return moved

    async def record(self, task: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        """Move a task one step, if it is still at its version."""
        await self._begin("record")
        present = self._unmoved(task)
        self._fence(present, update)
        moved = dataclasses.replace(
            present,
            state=update.state,
            version=present.version + 1,
            updated_at_ns=now_ns,
            **{
                name: value for name in _SET_BY_STEP if (value := getattr(update, name)) is not None
            },
        )
        if update.facts is not None and present.kind in JOBS:
            told = {name: order_events.storable(value) for name, value in update.facts.items()}
            moved = dataclasses.replace(moved, facts=told)
        if update.state not in TRANSITIONS[present.state]:
            raise InvariantViolatedError(
                f"Invariant: this is no transition, {present.state} -> {update.state}"
            )
        if update.state in AT_BROKER and not present.attempt:
            raise InvariantViolatedError("Invariant: what was never sent is not at the broker")
        if moved.filled_quantity < present.filled_quantity:
            raise InvariantViolatedError("Invariant: the filled quantity never falls")
        if update.outcome is not None:
            self.shared.outcomes.setdefault((task.task_id, present.attempt), update.outcome)
        self._append(moved, update.event, order_events.step(present, update))
        await self._confirm("record", moved)
        return moved

    async def hand_over(
        self, task: OrderTask, update: TaskUpdate, successor: NewTask, *, now_ns: int
    ) -> OrderTask:
        """End a task and let another go on for it on another account, both or neither."""
        if not (self.is_writer(task.account) and self.is_writer(successor.account)):
            raise TaskMoved(f"not the writer of both, from={task.account} to={successor.account}")
        await self._begin("hand_over")
        present = self._unmoved(task)
        for account in (task.account, successor.account):
            if self._held.get(account) != self.shared.epochs.get(account):
                raise TaskMoved(f"account={account}: the writer_epoch is superseded")
        self._fence(present, update)
        _check_hand_over(present, update, successor, self._lineage(present))
        moved = dataclasses.replace(
            present,
            state=update.state,
            version=present.version + 1,
            updated_at_ns=now_ns,
            reason_code=update.reason_code or present.reason_code,
            reason=update.reason or present.reason,
        )
        if update.outcome is not None:
            self.shared.outcomes.setdefault((task.task_id, present.attempt), update.outcome)
        self._append(moved, update.event, order_events.step(present, update))
        self._append(_received(successor), order_events.RECEIVED, order_events.received(successor))
        admitted = self.tasks[successor.task_id]
        await self._confirm("hand_over", moved, admitted)
        return admitted

    async def lineage(self, task: OrderTask) -> list[OrderTask]:
        """Return the tasks of one instruction on all accounts it has been on, the newest last."""
        await self._begin("lineage")
        return self._lineage(task)

    async def task(self, task_id: uuid.UUID) -> OrderTask | None:
        """Return one task."""
        await self._begin("task")
        return self.tasks.get(task_id)

    async def task_of_order(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the PLACE task a caller named so, on the account it has come to."""
        await self._begin("task_of_order")
        named = self._named(principal, client_order_id)
        return named if named is not None and named.kind is TaskKind.PLACE else None

    async def job_of(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the job a caller named so."""
        await self._begin("job_of")
        named = self._named(principal, client_order_id)
        return named if named is not None and named.kind in JOBS else None

    async def open_jobs(self, account: Account) -> list[OrderTask]:
        """Return an account's jobs that have something left to do, oldest first."""
        await self._begin("open_jobs")
        return self._of(account, JOB_OPEN)

    async def children_of(self, job_ids: Collection[uuid.UUID]) -> list[OrderTask]:
        """Return all that was asked in the name of some jobs, part by part."""
        await self._begin("children_of")
        found = [task for task in self.tasks.values() if task.job_id in job_ids]
        return sorted(found, key=lambda t: (t.job_id, t.leg, t.slice, t.created_at_ns, t.task_id))

    async def unsent(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in RECEIVED and READY, as they were admitted."""
        await self._begin("unsent")
        # A dict keeps the order in which its keys came.
        return [t for t in self.tasks.values() if t.account == account and t.state in UNSENT]

    async def in_doubt(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in SENDING and UNKNOWN, oldest first."""
        await self._begin("in_doubt")
        return self._of(account, IN_DOUBT)

    async def live_orders(self, account: Account) -> list[OrderTask]:
        """Return an account's PLACE tasks in ACKED, WORKING and PARTIAL, oldest first."""
        await self._begin("live_orders")
        return [task for task in self._of(account, LIVE) if task.kind is TaskKind.PLACE]

    async def changes_of_open(self, account: Account) -> list[OrderTask]:
        """Return the MODIFY tasks that may count for an order that has not ended, oldest first."""
        await self._begin("changes_of_open")
        placed = self._of(account, UNSENT | IN_DOUBT | LIVE)
        still_open = {task.task_id for task in placed if task.kind is TaskKind.PLACE}
        may_count = UNSENT | IN_DOUBT | {TaskState.ACKED, TaskState.MANUAL}
        return [
            task
            for task in self._of(account, may_count)
            if task.kind is TaskKind.MODIFY and task.target_task_id in still_open
        ]

    async def tasks_by_tag(self, account: Account, tags: Collection[str]) -> dict[str, OrderTask]:
        """Return the tasks one of whose attempts carries one of these tags, by that tag."""
        await self._begin("tasks_by_tag")
        known = {tag: self.tags.get((account, tag)) for tag in tags}
        return {tag: self.tasks[task_id] for tag, task_id in known.items() if task_id}

    async def tasks_by_order_id(
        self, account: Account, order_ids: Collection[str]
    ) -> list[OrderTask]:
        """Return the PLACE tasks that the broker calls by one of these ids, oldest first."""
        await self._begin("tasks_by_order_id")
        return [task for task in self._at_broker(account) if task.broker_order_id in order_ids]

    async def order_ids_since(self, account: Account, since_ns: int) -> set[str]:
        """Return the broker's ids of the account's orders whose intent is not older."""
        await self._begin("order_ids_since")
        sent = [t for t in self._at_broker(account) if (t.intent_at_ns or 0) >= since_ns]
        return {task.broker_order_id or "" for task in sent}

    async def orders_since(self, account: Account, since_ns: int, *, limit: int) -> list[PastOrder]:
        """Return the account's newest orders admitted since an instant, oldest first."""
        await self._begin("orders_since")
        found = [
            PastOrder(
                task_id=task.task_id,
                principal=task.principal,
                client_order_id=task.client_order_id,
                job_id=task.job_id,
                body=task.body,
                at_ns=task.created_at_ns,
            )
            for task in self.tasks.values()
            if (task.account, task.kind) == (account, TaskKind.PLACE)
            and task.created_at_ns >= since_ns
        ]
        return sorted(found, key=lambda order: order.at_ns)[-limit:]

    async def placed_since(self, account: Account, since_ns: int) -> int:
        """Return how many sends of new orders the broker may have counted since an instant."""
        await self._begin("placed_since")
        return sum(
            sent.kind is TaskKind.PLACE
            and sent.account == account
            and (sent.intent_at_ns or 0) >= since_ns
            and self._outcome(sent) not in UNCOUNTED
            for sent in self.attempts
        )

    async def sends_since(self, account: Account, since_ns: int) -> list[PastSend]:
        """Return the sends of any kind since an instant that may have left, oldest first."""
        await self._begin("sends_since")
        found = [
            PastSend(kind=sent.kind, at_ns=sent.intent_at_ns or 0)
            for sent in self.attempts
            if sent.account == account
            and (sent.intent_at_ns or 0) >= since_ns
            and self._outcome(sent) != "NOT_SENT"
        ]
        return sorted(found, key=lambda sent: sent.at_ns)

    async def changes_sent(self, target_task_id: uuid.UUID) -> int:
        """Return how many changes of an order the broker may have counted."""
        await self._begin("changes_sent")
        return sum(
            (sent.kind, sent.target_task_id) == (TaskKind.MODIFY, target_task_id)
            and self._outcome(sent) not in UNCOUNTED
            for sent in self.attempts
        )

    def _outcome(self, sent: OrderTask) -> str | None:
        return self.shared.outcomes.get((sent.task_id, sent.attempt))

    async def tasks_of(
        self,
        principal: str,
        accounts: Collection[Account],
        *,
        limit: int,
        only_open: bool = False,
    ) -> list[OrderTask]:
        """Return a caller's newest tasks on some accounts."""
        await self._begin("tasks_of")
        theirs = [t for t in self.tasks.values() if t.principal == principal]
        found = [task for task in theirs if task.account in accounts]
        return _newest([t for t in found if not only_open or _is_open(t)], limit)

    async def changes_of(self, target_task_id: uuid.UUID, *, limit: int) -> list[OrderTask]:
        """Return the newest changes and cancels of an order."""
        await self._begin("changes_of")
        return _newest(
            [t for t in self.tasks.values() if t.target_task_id == target_task_id], limit
        )

    async def task_of_request(self, principal: str, request_id: str) -> OrderTask | None:
        """Return the task that a principal's key names."""
        await self._begin("task_of_request")
        key = (principal, request_id)
        return self._first(lambda task: (task.principal, task.request_id) == key)

    async def dead_letters(
        self, account: Account, *, created_since_ns: int, failed_since_ns: int, limit: int
    ) -> list[OrderTask]:
        """Return what of an account may need a person, what is in doubt first."""
        await self._begin("dead_letters")
        lost = [
            task
            for task in self._of(account, {TaskState.MANUAL})
            if task.created_at_ns >= created_since_ns
        ]
        failed = [
            task
            for task in self._of(account, FAILED)
            if task.created_at_ns >= created_since_ns and task.updated_at_ns >= failed_since_ns
        ]
        undecided = _newest(self._of(account, {TaskState.UNKNOWN}) + lost, limit)
        return (undecided + _newest(failed, limit))[:limit]

    async def events_of(self, task_id: uuid.UUID, *, limit: int) -> list[OrderEvent]:
        """Return the first events of a task, oldest first."""
        await self._begin("events_of")
        task = self.tasks.get(task_id)
        told = self.events[task.account] if task is not None else []
        return [event for event in told if event.task_id == task_id][:limit]

    async def events_after(
        self, account: Account, account_seq: int, *, limit: int
    ) -> list[OrderEvent]:
        """Return an account's events with a greater number, in order."""
        await self._begin("events_after")
        return self.events[account][account_seq : account_seq + limit]

    async def last_seq(self, account: Account) -> int:
        """Return the number of an account's newest event."""
        await self._begin("last_seq")
        return len(self.events[account])

    async def delivered_seq(self, account: Account, sink: str) -> int:
        """Return up to which number a sink has had an account's events."""
        await self._begin("delivered_seq")
        return self.shared.delivered.get((account, sink), 0)

    async def set_delivered(self, account: Account, sink: str, account_seq: int) -> None:
        """Remember up to which number a sink has had an account's events; it never falls."""
        await self._begin("set_delivered")
        known = self.shared.delivered.get((account, sink), 0)
        self.shared.delivered[account, sink] = max(known, account_seq)

    async def halt(self, halt: Halt) -> None:
        """Keep that an account was halted."""
        await self._begin("halt")
        self.shared.halts[halt.account, halt.code] = halt

    async def halts(self, account: Account) -> list[Halt]:
        """Return the newest halt of each code an account ever had."""
        await self._begin("halts")
        return [halt for (whose, _), halt in sorted(self.shared.halts.items()) if whose == account]

    async def keep_breaker(self, step: BreakerStep) -> None:
        """Keep a transition of an account's breaker, at the event loop's time."""
        await self._begin("keep_breaker")
        self.shared.breakers.append((asyncio.get_running_loop().time(), step))

    async def breakers(self, account: Account) -> list[KeptBreaker]:
        """Return how each breaker of an account stands that ever opened."""
        await self._begin("breakers")
        newest = {
            step.breaker: (at_s, step)
            for at_s, step in self.shared.breakers
            if step.account == account
        }
        now_s = asyncio.get_running_loop().time()
        return [
            KeptBreaker(breaker=name, state=step.after, age_s=now_s - at_s)
            for name, (at_s, step) in sorted(newest.items())
        ]

    async def lift_halts(
        self,
        account: Account,
        *,
        by_whom: str,  # noqa: ARG002 - the port's signature
        now_ns: int,
        code: HaltCode | None = None,
    ) -> list[Halt]:
        """Lift what halts an account, or one reason of it, and return what did."""
        found = [halt for halt in await self.halts(account) if halt.stands(now_ns)]
        standing = [halt for halt in found if code in {None, halt.code}]
        for halt in standing:
            self.shared.halts[account, halt.code] = dataclasses.replace(halt, lifted_at_ns=now_ns)
        return standing

    async def keep_risk_limits(self, table: RiskTable, *, now_ns: int) -> None:
        """Keep what limits from now on; what was kept last already is not kept again."""
        await self._begin("keep_risk_limits")
        kept = self.shared.risk_limits
        if not kept or kept[-1].version != table.version:
            kept.append(KeptLimits(version=table.version, said=dict(table.said), at_ns=now_ns))

    async def risk_limits(self, *, limit: int) -> list[KeptLimits]:
        """Return the newest changes of the risk limits, newest first."""
        await self._begin("risk_limits")
        return self.shared.risk_limits[::-1][:limit]

    async def keep_risk_denial(self, denial: RiskDenial) -> None:
        """Keep what was denied, and of an account's older denials the newest."""
        await self._begin("keep_risk_denial")
        kept = self.shared.risk_denials
        kept.append(denial)
        theirs = [each for each in kept if each.account == denial.account]
        if len(theirs) > DENIALS_KEPT:
            kept.remove(theirs[0])

    async def risk_denials(self, account: Account, *, limit: int) -> list[RiskDenial]:
        """Return an account's newest denials, newest first."""
        await self._begin("risk_denials")
        return [each for each in self.shared.risk_denials[::-1] if each.account == account][:limit]

    async def keep_day_best(self, account: Account, day: dt.date, best_inr: Decimal) -> None:
        """Keep the best of an account's day; what was better already stays."""
        await self._begin("keep_day_best")
        kept = self.shared.day_bests
        kept[account, day] = max(kept.get((account, day), Decimal(0)), best_inr)

    async def day_best(self, account: Account, day: dt.date) -> Decimal:
        """Return the best of an account's day that was kept, 0 if none was."""
        await self._begin("day_best")
        return self.shared.day_bests.get((account, day), Decimal(0))

    async def keep_kill_switch(self, switch: KillSwitch) -> None:
        """Keep a switch that was thrown."""
        await self._begin("keep_kill_switch")
        self.shared.kill_switches.setdefault(switch.switch_id, switch)

    async def kill_switches(self) -> list[KillSwitch]:
        """Return the switches that stand and those that were released, oldest first."""
        await self._begin("kill_switches")
        return sorted(self.shared.kill_switches.values(), key=lambda each: each.since_ns)

    async def release_kill_switches(
        self, scope: KillScope, *, by_whom: str, now_ns: int
    ) -> list[KillSwitch]:
        """Release every switch of a scope that stands, and return them as released."""
        await self._begin("release_kill_switches")
        return _release(self.shared.kill_switches, scope, by_whom=by_whom, now_ns=now_ns)

    async def close(self) -> None:
        """Give the account locks back."""
        for account in self.shared.epochs:
            await self.release(account)
        self.is_closed = True

    async def _confirm(self, name: str, *tasks: OrderTask) -> None:
        """Tell who follows of a write, or that its confirmation was lost."""
        told = [(self._followers[of.account], of) for of in tasks if of.account in self._followers]
        written = [self.events[of.account][-1] for of in tasks]
        try:
            await self.after(name)
        except BaseException:
            for follower, task in told:
                follower.doubted(task.task_id, task.deadline_ns)
            raise
        for follower, task in told:
            follower.moved(task)
        for event in written:
            if event.account in self._hearers:
                self._hearers[event.account](event)

    async def _begin(self, name: str) -> None:
        await self.before(name)
        await asyncio.sleep(0)  # as a database does, let others run between any two calls
        if self.is_down:
            raise JournalUnavailable("not confirmed: told to be down")

    def _unmoved(self, task: OrderTask) -> OrderTask:
        present = self.tasks.get(task.task_id)
        if present is None or (present.version, present.state) != (task.version, task.state):
            raise TaskMoved(f"task_id={task.task_id} is no longer at version={task.version}")
        return present

    def _fence(self, present: OrderTask, update: TaskUpdate) -> None:
        """Hold steps out of SENDING to the newest writer, and back to READY to the sender.

        The broker's yes with its order id is a fact that the sender may record for ever.
        """
        ours = self._had.get(present.account, present.writer_epoch)
        is_yes = update.state is TaskState.ACKED and bool(update.broker_order_id)
        if present.state is not TaskState.SENDING or (is_yes and present.writer_epoch == ours):
            return
        is_sender = present.writer_epoch == ours or update.state is not TaskState.READY
        if ours != self.shared.epochs.get(present.account) or not is_sender:
            raise TaskMoved(f"account={present.account}: the writer_epoch={ours} is superseded")

    def _append(self, task: OrderTask, event: str, data: Mapping[str, object]) -> None:
        log = self.events[task.account]
        self.tasks[task.task_id] = task
        log.append(
            OrderEvent(
                event_id=self._new_id(),
                account=task.account,
                account_seq=len(log) + 1,
                task_id=task.task_id,
                version=task.version,
                event=event,
                event_version=order_events.version_of(event),
                at_ns=task.updated_at_ns,
                principal=task.principal,
                client_order_id=task.client_order_id,
                state=task.state,
                data=data,
            )
        )

    def _unlock(self, account: Account) -> None:
        if self.shared.holders.get(account) is self:
            del self.shared.holders[account]

    def _of(self, account: Account, states: Collection[TaskState]) -> list[OrderTask]:
        found = [t for t in self.tasks.values() if t.account == account and t.state in states]
        return sorted(found, key=lambda task: (task.created_at_ns, task.task_id))

    def _at_broker(self, account: Account) -> list[OrderTask]:
        found = self._of(account, set(TaskState))
        return [t for t in found if t.kind is TaskKind.PLACE and t.broker_order_id is not None]

    def _first(self, is_it: Callable[[OrderTask], bool]) -> OrderTask | None:
        return next((task for task in self.tasks.values() if is_it(task)), None)

    def _keyed(self, new: NewTask) -> OrderTask | None:
        key = (new.principal, new.request_id)
        known = self._first(lambda task: (task.principal, task.request_id) == key)
        if known is not None and not says_the_same(known, new):
            raise _conflict("request_id", new.request_id)
        return None if known is None else present_of(self._lineage(known))

    def _takes_part(self, new: NewTask) -> bool:
        """Return whether a job still places, and has nothing yet where this order belongs."""
        job = self.tasks.get(new.job_id) if new.job_id else None
        if new.kind is not TaskKind.PLACE:
            return job is not None
        part = (new.kind, new.job_id, new.leg, new.slice)
        is_taken = self._first(lambda task: (task.kind, task.job_id, task.leg, task.slice) == part)
        runs = job is not None and job.state is TaskState.RUNNING and job.account == new.account
        return runs and is_taken is None

    def _named(self, principal: str, client_order_id: str) -> OrderTask | None:
        named = self._first(
            lambda task: (
                task.kind not in _ABOUT_AN_ORDER
                and (task.principal, task.client_order_id) == (principal, client_order_id)
            )
        )
        return None if named is None else present_of(self._lineage(named))

    def _lineage(self, task: OrderTask) -> list[OrderTask]:
        if self.tasks[task.lineage_id].state not in {TaskState.FAILED_OVER, *AT_BROKER}:
            return [self.tasks[task.lineage_id]]  # as most are; spares a look at every task
        found = (each for each in self.tasks.values() if each.lineage_id == task.lineage_id)
        return sorted(found, key=lambda each: each.hop)


_ABOUT_AN_ORDER: Final = frozenset({TaskKind.MODIFY, TaskKind.CANCEL})
UNCOUNTED: Final = frozenset({"NOT_SENT", "THROTTLED", "REJECTED_AUTH"})
"""Outcomes of sends that certainly did not come to the broker's desk."""
_SET_BY_STEP: Final = (
    "broker_order_id",
    "broker_status",
    "filled_quantity",
    "average_price",
    "reason_code",
    "reason",
)


def _newest(tasks: Iterable[OrderTask], limit: int) -> list[OrderTask]:
    return sorted(tasks, key=lambda t: (t.created_at_ns, t.task_id), reverse=True)[:limit]


def _is_open(task: OrderTask) -> bool:
    is_resting = task.kind is TaskKind.PLACE and task.state in LIVE
    return is_resting or task.state in UNSENT | IN_DOUBT | JOB_OPEN


def _no_records() -> JournalRecords:
    return JournalRecords(
        tasks={},
        events=defaultdict(list),
        tags={},
        attempts=[],
        epochs={},
        holders={},
        delivered={},
        halts={},
        outcomes={},
        breakers=[],
        kill_switches={},
        risk_limits=[],
        risk_denials=[],
        day_bests={},
    )


def _release(
    switches: dict[uuid.UUID, KillSwitch], scope: KillScope, *, by_whom: str, now_ns: int
) -> list[KillSwitch]:
    released = [
        dataclasses.replace(each, released_ns=now_ns, released_by=by_whom)
        for each in switches.values()
        if each.stands and each.scope == scope
    ]
    switches |= {each.switch_id: each for each in released}
    return released


async def _at_once(_: str) -> None:
    return


def _received(new: NewTask) -> OrderTask:
    given = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
    received_at_ns, _ = given.pop("received_at_ns"), given.pop("risk")
    return OrderTask(
        **given,
        state=first_state(new.kind),
        version=1,
        attempt=0,
        tag=None,
        writer_epoch=None,
        send_not_after_ns=None,
        intent_at_ns=None,
        broker_order_id=None,
        broker_status=None,
        filled_quantity=0,
        average_price=None,
        reason_code=None,
        reason=None,
        created_at_ns=received_at_ns,
        updated_at_ns=received_at_ns,
    )


def _check_hand_over(
    task: OrderTask, update: TaskUpdate, successor: NewTask, lineage: Collection[OrderTask]
) -> None:
    """Refuse what the database refuses: only what is over for certain goes on elsewhere (I8)."""
    is_over = update.state in {TaskState.FAILED_OVER, TaskState.REJECTED}
    if not is_over or update.state not in TRANSITIONS[task.state]:
        raise InvariantViolatedError(
            f"Invariant: this is no transition, {task.state} -> {update.state}"
        )
    if successor.account in {each.account for each in lineage}:
        raise InvariantViolatedError("Invariant: an instruction comes to an account once")
    asked = (successor.kind, successor.principal, successor.request_id, successor.body_sha256)
    if (successor.origin_task_id, successor.hop, *asked) != (
        task.lineage_id,
        task.hop + 1,
        *(task.kind, task.principal, task.request_id, task.body_sha256),
    ):
        raise InvariantViolatedError("Invariant: what goes on has the key of the one before")


def _conflict(field: str, value: str) -> IdempotencyConflict:
    return IdempotencyConflict("IDEMPOTENCY_CONFLICT", "used before", field=field, value=value)


def _refuse_unstorable(new: NewTask) -> None:
    for field in ("account", "principal", "request_id", "client_order_id"):
        name: str = getattr(new, field)
        is_text = "\0" not in name and name == name.encode("utf-8", "replace").decode("utf-8")
        if not (1 <= len(name) <= NAME_CHARACTERS_MAX and is_text):
            rule = f"must be text of 1 to {NAME_CHARACTERS_MAX} characters"
            raise OrderRefused("INVALID_FIELD", rule, field=field, value=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request that reached a :class:`ScriptedBroker`: ``what`` is its tag or order id."""

    kind: TaskKind
    what: str
    deadline_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a :class:`ScriptedBroker` takes one request.

    ``reply`` of None is the plain one of a request that went well; ``takes_effect`` says whether
    the order is placed, changed or cancelled, whatever is answered. Its first byte leaves after
    ``connects_s``, if it still may.
    """

    reply: Reply | None = None
    takes_effect: bool = True
    connects_s: float = 0.0


class ScriptedBroker:
    """A ``BrokerGateway`` with a book of its own that answers as it is told.

    ``answers`` are used up one by one, then everything goes well. ``on_sent`` is awaited when a
    request has had its effect and before it is answered.
    """

    def __init__(self, clock: Clock, *, user_id: str = "AB1234") -> None:
        self.sent: list[Sent] = []
        self.answers: deque[Answer] = deque()
        self.book: dict[str, BrokerOrder] = {}
        self.hidden: set[str] = set()
        """Orders that the book does not show."""
        self.is_down = False
        self.is_token_refused = False
        self.is_closed = False
        self.reads = 0
        self.trade_book: list[BrokerTrade] | None = None
        """What is told of the day's fills; one for each order that has some if not given."""
        self.net_positions: list[BrokerPosition] | None = None
        """What is told of the positions; those that the fills come to if not given."""
        self.margin = OrderMargin(
            at_ns=0, total_inr=Decimal(0), available_inr=Decimal(1_000_000_000)
        )
        """What every order is told to need, and what is free."""
        self.margins_asked: list[OrderRequest] = []
        self.on_sent: Callable[[Sent], Awaitable[None]] = _unheld
        self._clock = clock
        self._user_id = user_id

    # --- what a test does at the broker -------------------------------------------------------

    def change(self, order_id: str, **fields: object) -> BrokerOrder:
        """Change an order's row, such as its ``status`` or ``filled_quantity``."""
        self.book[order_id] = dataclasses.replace(self.book[order_id], **fields)  # type: ignore[arg-type]  # a test names the fields
        return self.book[order_id]

    def order_of_tag(self, tag: str) -> BrokerOrder:
        """Return the one order that carries a tag."""
        (order,) = [order for order in self.book.values() if tag in order.tags]
        return order

    def sent_tags(self) -> list[str]:
        """Return the tags of the placements that arrived, in order."""
        return [sent.what for sent in self.sent if sent.kind is TaskKind.PLACE]

    # --- the port -----------------------------------------------------------------------------

    async def place(
        self,
        request: OrderRequest,
        *,
        tag: str,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Take one new order into the book, and answer."""
        order_id = f"{len(self.book) + 1:015d}"

        def effect() -> None:
            self.book[order_id] = _row(request, order_id, tag=tag, user_id=self._user_id)

        until_ns = _first(deadline_ns, leave_by_ns)
        return await self._take(TaskKind.PLACE, tag, order_id, effect, until_ns, may_leave)

    async def modify(  # noqa: PLR0913 - what one change is made of
        self,
        order_id: str,
        variety: Variety,  # noqa: ARG002 - the port's signature
        change: OrderChange,
        *,
        parent_order_id: str | None = None,  # noqa: ARG002 - the port's signature
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Change one order of the book, and answer."""

        def effect() -> None:
            shown = ("order_type", "quantity", "price", "trigger_price")
            given = {name: getattr(change, name) for name in shown}
            self.change(order_id, **{name: v for name, v in given.items() if v is not None})

        until_ns = _first(deadline_ns, leave_by_ns)
        return await self._take(TaskKind.MODIFY, order_id, order_id, effect, until_ns, may_leave)

    async def cancel(
        self,
        order_id: str,
        variety: Variety,  # noqa: ARG002 - the port's signature
        *,
        parent_order_id: str | None = None,  # noqa: ARG002 - the port's signature
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Cancel one order of the book, and answer."""

        def effect() -> None:
            self.change(order_id, status="CANCELLED")

        until_ns = _first(deadline_ns, leave_by_ns)
        return await self._take(TaskKind.CANCEL, order_id, order_id, effect, until_ns, may_leave)

    async def orders(self) -> Sequence[BrokerOrder]:
        """Return what the book shows."""
        self.reads += 1
        self._check_up()
        return [row for order_id, row in self.book.items() if order_id not in self.hidden]

    async def order_history(self, order_id: str) -> Sequence[BrokerOrder]:
        """Return the one state of an order that is kept."""
        return [row for row in await self.orders() if row.order_id == order_id]

    async def trades(self) -> Sequence[BrokerTrade]:
        """Return the fills that the book tells of, or what a test says."""
        self._check_up()
        return self._fills() if self.trade_book is None else list(self.trade_book)

    async def positions(self) -> Sequence[BrokerPosition]:
        """Return what the fills come to, or what a test says."""
        self._check_up()
        if self.net_positions is not None:
            return list(self.net_positions)
        sums: Counter[PositionKey] = Counter()
        for fill in self._fills():
            sums[fill.key] += fill.quantity if fill.transaction_type == Side.BUY else -fill.quantity
        return [
            BrokerPosition(key=key, quantity=quantity, overnight_quantity=0)
            for key, quantity in sums.items()
        ]

    async def order_margin(self, request: OrderRequest) -> OrderMargin:
        """Return what a test says."""
        self._check_up()
        self.margins_asked.append(request)
        return dataclasses.replace(self.margin, at_ns=self._clock.now_ns())

    def _fills(self) -> list[BrokerTrade]:
        return [
            BrokerTrade(
                trade_id=row.order_id,
                order_id=row.order_id,
                key=PositionKey(row.exchange, row.tradingsymbol, row.product),
                transaction_type=row.transaction_type,
                quantity=row.filled_quantity,
                average_price=row.average_price,
            )
            for row in self.book.values()
            if row.filled_quantity
        ]

    def _check_up(self) -> None:
        if self.is_token_refused:
            raise LoginRequired("told to refuse the access token")
        if self.is_down:
            raise BrokerUnavailable("told to be down")

    def order_update(self, data: object) -> BrokerOrder | None:
        """Take a row as an update of this user, None when it is another's."""
        is_ours = isinstance(data, BrokerOrder) and data.user_id == self._user_id
        return data if is_ours and isinstance(data, BrokerOrder) else None

    async def close(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True

    async def _take(
        self,
        kind: TaskKind,
        what: str,
        order_id: str,
        effect: Callable[[], None],
        deadline_ns: int,
        may_leave: Callable[[], bool] | None,
    ) -> Reply:
        connects_s = self.answers[0].connects_s if self.answers else 0.0
        if connects_s:
            await asyncio.sleep(connects_s)
        if self._clock.monotonic_ns() >= deadline_ns:
            return Reply(withheld=Withheld.NOTHING_LEFT, failure="the deadline had passed")
        if may_leave is not None and not may_leave():
            return Reply(withheld=Withheld.NOTHING_LEFT, failure=NO_TURN)
        sent = Sent(kind=kind, what=what, deadline_ns=deadline_ns)
        self.sent.append(sent)
        answer = self._answer()
        if kind is not TaskKind.PLACE and not self._is_live(order_id):
            answer = Answer(reply=refusal(400, "OrderException"), takes_effect=False)
        if answer.takes_effect:
            effect()
        await self.on_sent(sent)
        body = {"status": "success", "data": {"order_id": order_id}}
        return answer.reply or Reply(http_status=200, content_type="application/json", body=body)

    def _answer(self) -> Answer:
        if self.is_token_refused:
            return Answer(reply=refusal(403, "TokenException"), takes_effect=False)
        return self.answers.popleft() if self.answers else Answer()

    def _is_live(self, order_id: str) -> bool:
        ended = {"COMPLETE", "CANCELLED", "REJECTED"}
        return order_id in self.book and self.book[order_id].status not in ended


def refusal(http_status: int, error_type: str, message: str = "told to refuse") -> Reply:
    """Return Kite's error envelope as a reply."""
    body = {"status": "error", "error_type": error_type, "message": message}
    return Reply(http_status=http_status, content_type="application/json", body=body)


def _first(deadline_ns: int, leave_by_ns: int | None) -> int:
    return deadline_ns if leave_by_ns is None else min(deadline_ns, leave_by_ns)


async def _unheld(_: Sent) -> None:
    return


def _row(request: OrderRequest, order_id: str, *, tag: str, user_id: str) -> BrokerOrder:
    return BrokerOrder(
        order_id=order_id,
        status="OPEN",
        tags=(tag,),
        exchange=request.exchange,
        tradingsymbol=request.tradingsymbol,
        transaction_type=request.transaction_type,
        order_type=request.order_type,
        product=request.product,
        variety=request.variety,
        quantity=request.iceberg_quantity or request.quantity,
        price=request.price or Decimal(0),
        trigger_price=request.trigger_price or Decimal(0),
        filled_quantity=0,
        average_price=Decimal(0),
        user_id=user_id,
        order_timestamp="",
        exchange_update_timestamp="",
        status_message="",
        parent_order_id="",
        iceberg=None
        if request.iceberg_legs is None
        else IcebergLeg(leg=1, legs=request.iceberg_legs, total_quantity=request.quantity),
    )
