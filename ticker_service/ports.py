"""What the engine needs from the outside, named for the need and not for a product."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import (
        Awaitable,
        Callable,
        Collection,
        Container,
        Iterable,
        Mapping,
        Sequence,
    )
    from decimal import Decimal

    from ticker_service.domain.breaker import BreakerStep, KeptBreaker
    from ticker_service.domain.halt import Halt, HaltCode
    from ticker_service.domain.instrument import InstrumentTable
    from ticker_service.domain.kill_switch import KillScope, KillSwitch
    from ticker_service.domain.limit import LimitName
    from ticker_service.domain.order import (
        Account,
        BrokerOrder,
        NewTask,
        OrderChange,
        OrderEvent,
        OrderRequest,
        OrderTask,
        TaskKind,
        TaskUpdate,
        Variety,
    )
    from ticker_service.domain.portfolio import BrokerPosition, BrokerTrade
    from ticker_service.domain.risk import KeptLimits, RiskDenial, RiskTable
    from ticker_service.domain.risk_input import OrderMargin, ReferencePrice
    from ticker_service.domain.tick import Mode


T = TypeVar("T")

Payload: TypeAlias = bytes | memoryview
"""What a channel or key is given: a read-only view where one more copy would be felt."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One binary WebSocket message as it came, when (ns since the Unix epoch), and on which line.

    ``connection`` is the feed's number of the connection.
    """

    received_at_ns: int
    payload: bytes
    connection: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedUp:
    """A connection is open and has asked for its instruments; its ticks come after this.

    ``account`` is whose login opened it, ``is_failover`` whether another one did before.
    """

    connection: int
    at_ns: int
    account: str = ""
    is_failover: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedDown:
    """A connection is gone; ``last_frame_ns`` is the last moment it was known to be alive."""

    connection: int
    at_ns: int
    last_frame_ns: int
    reason: str
    login_required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedText:
    """A text message of the broker: an order update, an error, a notice, or what we do not know."""

    connection: int
    at_ns: int
    kind: str
    data: object


FeedEvent = FeedUp | FeedDown | FeedText


class FeedSink(Protocol):
    """Where a feed puts what it receives; neither call waits."""

    def put_frame(self, frame: Frame) -> None:
        """Take a binary message."""
        ...

    def put_event(self, event: FeedEvent) -> None:
        """Take a change of state or a text message, in order with the frames."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedLogin:
    """What a feed connects with: an account's app and its token of today.

    ``account`` is empty for a token that the settings gave the feed alone; ``api_key`` for the app
    of the settings.
    """

    access_token: str = field(repr=False)
    account: str = ""
    api_key: str = field(default="", repr=False)


class AccessTokenSource(Protocol):
    """The logins a feed may connect with, of one account or of several; new ones at any time."""

    def candidates(self) -> Sequence[FeedLogin]:
        """Return the logins there are now, the one to try first at the front."""
        ...

    async def other_than(self, refused: Container[str]) -> FeedLogin:
        """Return a login whose token is not among those refused, once there is one."""
        ...


class FeedSource(Protocol):
    """A market data feed that keeps itself connected and subscribed."""

    def want(self, modes: Mapping[int, Mode]) -> None:
        """Make ``token -> mode`` the whole of what is subscribed, now and after a reconnect."""
        ...

    def connection_of(self, instrument_token: int) -> int | None:
        """Return the number of the connection that carries a token, if it is subscribed."""
        ...

    def renew(self, connection: int) -> None:
        """Close a connection that is open, so that it is opened and subscribed anew."""
        ...

    async def run(self, sink: FeedSink) -> None:
        """Receive until cancelled; without a token that is taken, wait for another."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What one flush sends, in order: messages to channels, then values to keys.

    ``values`` are ``(key, value, lifetime in ms)``.
    """

    messages: Sequence[tuple[str, Payload]] = ()
    values: Sequence[tuple[str, Payload, int]] = ()

    @classmethod
    def join(cls, parts: Iterable[Outgoing]) -> Self:
        """Return everything of several in one, in their order."""
        listed = list(parts)
        return cls(
            messages=[message for part in listed for message in part.messages],
            values=[value for part in listed for value in part.values],
        )


class TickPublisher(Protocol):
    """The distributor of messages to subscribers."""

    async def send(self, outgoing: Outgoing) -> None:
        """Send everything in order in one exchange.

        Raises:
            PublishError: Not confirmed; some or all of it may have been delivered.
        """
        ...

    async def close(self) -> None:
        """Give the connection back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFile:
    """A file of the recordings; the name is relative to their folder, with slashes."""

    name: str
    size_bytes: int


class RecordFolder(Protocol):
    """Where recordings rest. Every call works in a thread, so that nothing waits for a disk."""

    async def append(self, name: str, parts: Iterable[bytes], *, sync: bool) -> int:
        """Add to the end of a file that this run has made, or make it; return the bytes added.

        Args:
            name: Which file.
            parts: Bytes, one write each; asked for in the thread, so making them may cost CPU.
            sync: Return only when all of the file is on the disk.

        Raises:
            RecordingError: Not all was written; what was is the caller's to leave behind.
        """
        ...

    async def close(self, name: str) -> None:
        """Bring a file to the disk and let go of it."""
        ...

    async def free_bytes(self) -> int:
        """Return how much room is left where the recordings are.

        Raises:
            RecordingError: The folder is not there and cannot be made.
        """
        ...

    async def files(self) -> Sequence[RecordedFile]:
        """Return everything that is there, other runs' files among them.

        Raises:
            RecordingError: The folder cannot be read.
        """
        ...

    async def delete(self, name: str) -> bool:
        """Delete a file unless somebody writes to it; return whether it is gone."""
        ...


class ColumnParts(Protocol):
    """Where published columns rest, in parts that appear when they are whole.

    Every call works in a thread, so that nothing waits for a disk.
    """

    async def append(self, name: str, streams: Iterable[bytes]) -> int:
        """Add rows to a part, beginning it if need be; return how much was added, bytes.

        Args:
            name: Which part, relative to the folder, with slashes.
            streams: Arrow IPC streams, a group of rows each, all with the same columns; asked for
                in the thread, so making them may cost CPU.

        Raises:
            RecordingError: Not all was written; abandon the part.
        """
        ...

    async def close(self, name: str) -> None:
        """Finish a part and let it appear under its name.

        Raises:
            RecordingError: It could not be finished; abandon it.
        """
        ...

    async def abandon(self, name: str) -> None:
        """Drop an unfinished part; it never appears."""
        ...


class InstrumentCatalog(Protocol):
    """Where the instruments of the day come from."""

    async def fetch(self) -> InstrumentTable:
        """Return the whole dump.

        Raises:
            BrokerUnavailable: It could not be fetched; trying again is safe.
            CatalogError: What came is not a dump.
        """
        ...


class Withheld(StrEnum):
    """How far a request got when it has no answer."""

    NOTHING_LEFT = "nothing_left"
    """No byte of it was written: it cannot have had an effect."""
    MAY_HAVE_LEFT = "may_have_left"
    """Some byte may have left: it may have had its effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What was observed of one request, recorded at the session and judged elsewhere.

    Either ``http_status`` with the body that came, or ``withheld`` and ``failure``. ``body`` is the
    parsed JSON object, None when it was no JSON object.
    """

    http_status: int | None = None
    content_type: str = ""
    body: Mapping[str, object] | None = None
    withheld: Withheld | None = None
    failure: str = ""


class Leave(Protocol):
    """Leave to connect once. What was learnt is told once; the first word counts."""

    def succeeded(self) -> None:
        """Tell that the broker answered."""
        ...

    def failed(self) -> None:
        """Tell that it could not be reached."""
        ...

    def release(self) -> None:
        """Tell that nothing was learnt, unless something was told before."""
        ...


class ConnectGate(Protocol):
    """Who decides whether a connection is tried."""

    @property
    def retry_in_s(self) -> float:
        """Seconds until asking is worth while."""
        ...

    def ask(self) -> Leave | None:
        """Return leave to connect now, None when it is not to be tried."""
        ...


LANE_FULL: Final = "too many requests wait for a thread"
NO_ACCESS_TOKEN: Final = "no access token"  # noqa: S105 - says that there is none
NO_TURN: Final = "the account's own rate, a halt or a kill switch left it no turn in its time"
"""Why a send did not leave when its ``SendGate`` said no. None of the three tells anything about
the broker."""


class SendGate(Protocol):
    """Who has the last word on when a send's first byte leaves; asked on the sending thread."""

    def turn(
        self, kind: TaskKind, *, leave_by_ns: int, may_leave: Callable[[], bool] | None = None
    ) -> bool:
        """Wait for the broker's rate to have room, and take it, unless somebody says no.

        Args:
            kind: What is sent.
            leave_by_ns: Monotonic instant after which the answer is no.
            may_leave: Asked last: a halt may have begun, or a kill switch been thrown, while a
                connection was made or a turn waited for (I12).

        Returns:
            True when the first byte is to leave now, False when none may.
        """
        ...


class ReadGate(Protocol):
    """Who decides when the broker is asked for something that changes nothing there."""

    async def read(self, limit: LimitName, work: Callable[[], Awaitable[T]]) -> T:
        """Ask in turn, and return the answer.

        Args:
            limit: Under which of the broker's limits.
            work: Asks; run at most once.

        Raises:
            BrokerUnavailable: There was no turn, or the broker is not asked now; or ``work`` did.
        """
        ...


class LastPrices(Protocol):
    """Who knows what instruments last traded at."""

    async def fresh(
        self,
        symbols: Collection[tuple[str, str]],
        *,
        within_s: float,
        with_circuit: bool = False,
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        """Return the last prices of exchange and symbol that are to be had, asking if need be.

        Never raises for what cannot be had; that is missing.

        Args:
            symbols: Of which instruments, in the exchanges' spelling.
            within_s: How old one may be that is not asked for anew.
            with_circuit: Whether the day's circuit limits are needed as well.
        """
        ...


class AddressProbe(Protocol):
    """Tells from which address an account's orders leave."""

    async def address(self) -> str:
        """Return the address as ``domain.egress.read_address`` writes it.

        Raises:
            AddressUnknown: It could not be told.
        """
        ...


class QuoteSource(Protocol):
    """Who asks the broker for quotes and holdings."""

    async def quotes(
        self, symbols: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], ReferencePrice]:
        """Return the quotes of at most 500 instruments; one that it does not know is missing.

        Raises:
            BrokerUnavailable: They could not be read.
            LoginRequired: The access token was refused.
        """
        ...

    async def held_shares(self) -> Mapping[tuple[str, str], int]:
        """Return how many shares may be sold out of the holdings; raises as :meth:`quotes`."""
        ...


class BrokerGateway(Protocol):
    """One account's orders at the broker. Nothing here is ever repeated by the gateway itself."""

    async def place(
        self,
        request: OrderRequest,
        *,
        tag: str,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one new order once.

        Args:
            request: The order.
            tag: Goes with it and comes back in the book.
            deadline_ns: Monotonic instant after which nothing may be sent or waited for.
            leave_by_ns: Monotonic instant after which its first byte may not leave any more,
                however long a connection took; the deadline if not given.
            may_leave: Asked right before its first byte, on whichever thread sends; nothing leaves
                when it says no.

        Returns:
            What was observed; it does not raise for anything the broker or the network did.
        """
        ...

    async def modify(  # noqa: PLR0913 - what one change is made of
        self,
        order_id: str,
        variety: Variety,
        change: OrderChange,
        *,
        parent_order_id: str | None = None,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one change once; as :meth:`place`.

        ``parent_order_id`` goes with a cover order's second leg, which ``order_id`` names then.
        """
        ...

    async def cancel(
        self,
        order_id: str,
        variety: Variety,
        *,
        parent_order_id: str | None = None,
        deadline_ns: int,
        leave_by_ns: int | None = None,
        may_leave: Callable[[], bool] | None = None,
    ) -> Reply:
        """Send one cancel once, on a lane of its own; as :meth:`modify`.

        The cancel of a cover order's second leg closes the position that it protects.
        """
        ...

    async def orders(self) -> Sequence[BrokerOrder]:
        """Return the day's order book.

        Raises:
            BrokerUnavailable: It could not be read, or what came is not a whole valid book.
            LoginRequired: The access token was refused.
        """
        ...

    def order_update(self, data: object) -> BrokerOrder | None:
        """Return an order update of the feed as a row of the book; None if it is another's."""
        ...

    async def order_history(self, order_id: str) -> Sequence[BrokerOrder]:
        """Return every state of one order, oldest first; raises as :meth:`orders`."""
        ...

    async def trades(self) -> Sequence[BrokerTrade]:
        """Return the day's fills, each once; raises as :meth:`orders`."""
        ...

    async def positions(self) -> Sequence[BrokerPosition]:
        """Return the net positions; raises as :meth:`orders`."""
        ...

    async def order_margin(self, request: OrderRequest) -> OrderMargin:
        """Return what an order would need, and what the account has free; it places nothing.

        The broker counts positions and orders that it has. Raises as :meth:`orders`.
        """
        ...

    async def close(self) -> None:
        """Give connections and threads back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The task of a request, and whether this call made it or an earlier one with its key."""

    task: OrderTask
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PastSend:
    """A send that counts for the broker's rates; when its intent was recorded, wall time in ns."""

    kind: TaskKind
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PastOrder:
    """An order that was admitted, and when: wall time, ns since the Unix epoch."""

    task_id: uuid.UUID
    principal: str
    client_order_id: str
    job_id: uuid.UUID | None
    body: Mapping[str, str]
    at_ns: int


class TaskFollower(Protocol):
    """Who is told what this process's writes do to an account's tasks; neither call waits."""

    def moved(self, task: OrderTask) -> None:
        """Take a task as a committed write left it; news of two writes may come in any order."""
        ...

    def doubted(self, task_id: uuid.UUID, until_ns: int) -> None:
        """Know that a write of a task may have been committed; ``until_ns`` is its deadline."""
        ...


class OrderJournal(Protocol):
    """The durable record of orders; every write is one transaction and returns after commit.

    Raises ``JournalUnavailable`` when the database does not confirm; whether the write happened is
    then unknown and the caller reads again before it decides.
    """

    async def acquire(self, account: Account) -> int:
        """Become the account's one writer; return the new ``writer_epoch``.

        Raises:
            AccountTaken: Another process writes this account.
        """
        ...

    async def release(self, account: Account) -> None:
        """Stop being the account's writer."""
        ...

    def is_writer(self, account: Account) -> bool:
        """Return whether the session that holds the account's lock is known to live."""
        ...

    async def watch_writers(self, on_lost: Callable[[frozenset[Account]], None]) -> None:
        """Ask that session for a sign of life until cancelled; say which accounts were lost."""
        ...

    def follow(self, account: Account, follower: TaskFollower) -> None:
        """Tell of every later write of this process to an account's tasks; the newest call counts.

        Told before the write returns, and when its outcome cannot be told.
        """
        ...

    def hear_events(self, account: Account, hear: Callable[[OrderEvent], None]) -> None:
        """Tell of events of an account that a later write of this process has committed.

        Told before the write returns, in any order, and not of all: some are only to be read. The
        newest call counts; ``hear`` does not wait.
        """
        ...

    async def admit(self, new: NewTask) -> Admitted:
        """Journal an instruction in its first state, or return the one its key already names.

        Raises:
            IdempotencyConflict: The key is known with another body.
            TaskMoved: It is the order of a job that places no more, or that has this part.
        """
        ...

    async def adopt_orphan(
        self, new: NewTask, update: TaskUpdate, *, tag: str, sent_at_ns: int
    ) -> Admitted:
        """Journal an order of the broker's that has a tag of ours and no task.

        It begins in the state that the book shows, with one attempt, which was its send; it can
        not be sent by this. Said twice it is the same task.

        Args:
            new: What the order is, in whose name it is kept from now on, and who says so.
            update: What the book shows of it.
            tag: Its tag.
            sent_at_ns: When it must have been sent, wall time.

        Raises:
            IdempotencyConflict: Its key or name is another's.
            TaskMoved: We do not write the account, or a task has the tag.
        """
        ...

    async def known(self, new: NewTask) -> OrderTask | None:
        """Return the task that an instruction's key already names, where it has come to.

        Raises as :meth:`admit`.
        """
        ...

    async def claim(
        self, task: OrderTask, *, tag: str, writer_epoch: int, now_ns: int, send_not_after_ns: int
    ) -> OrderTask:
        """Commit the intent: READY to SENDING, attempt + 1, one attempt row with its unique tag.

        Raises:
            TaskMoved: The task is no longer what ``task`` says, or the epoch is not the newest.
        """
        ...

    async def record(self, task: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        """Append one event and move the task, if it is still at ``task.version``.

        A superseded writer says no more how its send ended, but that the broker took it: a step to
        ACKED with the broker's order id.

        Raises:
            TaskMoved: It has moved on; read it again and merge again.
        """
        ...

    async def hand_over(
        self, task: OrderTask, update: TaskUpdate, successor: NewTask, *, now_ns: int
    ) -> OrderTask:
        """End a task and let another go on for it on another account, both or neither.

        Args:
            task: As last read; nothing of it is at its broker.
            update: Its last step, to FAILED_OVER, or to REJECTED from SENDING.
            successor: What goes on for it, made of it by ``domain.order.successor_of``.
            now_ns: Wall time.

        Returns:
            The successor, RECEIVED.

        Raises:
            TaskMoved: It has moved on, or we are not the newest writer of both accounts.
        """
        ...

    async def lineage(self, task: OrderTask) -> list[OrderTask]:
        """Return the tasks of one instruction on all accounts it has been on, the newest last."""
        ...

    async def task(self, task_id: uuid.UUID) -> OrderTask | None:
        """Return one task."""
        ...

    async def task_of_order(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the PLACE task a caller named so, on the account it has come to."""
        ...

    async def unsent(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in RECEIVED and READY, as they were admitted.

        Not by their time: wall clocks are set back, and the last change of an order counts.
        """
        ...

    async def in_doubt(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in SENDING and UNKNOWN, oldest first."""
        ...

    async def live_orders(self, account: Account) -> list[OrderTask]:
        """Return an account's PLACE tasks in ACKED, WORKING and PARTIAL, oldest first.

        A MODIFY or CANCEL that was ACKED has ended, and is not among them.
        """
        ...

    async def changes_of_open(self, account: Account) -> list[OrderTask]:
        """Return the MODIFY tasks that may count for an order that has not ended, oldest first.

        Those that have not failed, of PLACE tasks that are unsent, in doubt or at the broker.
        """
        ...

    async def tasks_by_tag(self, account: Account, tags: Collection[str]) -> dict[str, OrderTask]:
        """Return the tasks one of whose attempts carries one of these tags, by that tag."""
        ...

    async def tasks_by_order_id(
        self, account: Account, order_ids: Collection[str]
    ) -> list[OrderTask]:
        """Return the PLACE tasks that the broker calls by one of these ids, oldest first."""
        ...

    async def order_ids_since(self, account: Account, since_ns: int) -> set[str]:
        """Return the broker's ids of the account's orders whose intent is not older."""
        ...

    async def orders_since(self, account: Account, since_ns: int, *, limit: int) -> list[PastOrder]:
        """Return the account's newest orders admitted since an instant, oldest first."""
        ...

    async def placed_since(self, account: Account, since_ns: int) -> int:
        """Return how many sends of new orders the broker may have counted since an instant.

        Those are all but the ones that certainly did not come to its desk: not left, refused for
        their rate (429) or for the access token.
        """
        ...

    async def sends_since(self, account: Account, since_ns: int) -> list[PastSend]:
        """Return the sends of any kind since an instant that may have left, oldest first."""
        ...

    async def changes_sent(self, target_task_id: uuid.UUID) -> int:
        """Return how many changes of an order the broker may have counted, as `placed_since`."""
        ...

    async def tasks_of(
        self,
        principal: str,
        accounts: Collection[Account],
        *,
        limit: int,
        only_open: bool = False,
    ) -> list[OrderTask]:
        """Return a caller's newest tasks on some accounts, newest first.

        Those that are open have not ended; a MODIFY or CANCEL that was ACKED has.
        """
        ...

    async def changes_of(self, target_task_id: uuid.UUID, *, limit: int) -> list[OrderTask]:
        """Return the newest changes and cancels of an order, newest first."""
        ...

    async def job_of(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the job a caller named so."""
        ...

    async def open_jobs(self, account: Account) -> list[OrderTask]:
        """Return an account's jobs in RUNNING and STOPPING, oldest first; at most 500."""
        ...

    async def children_of(self, job_ids: Collection[uuid.UUID]) -> list[OrderTask]:
        """Return all that was asked in the name of some jobs, by job, leg, slice and time."""
        ...

    async def task_of_request(self, principal: str, request_id: str) -> OrderTask | None:
        """Return the task that a principal's key names."""
        ...

    async def dead_letters(
        self, account: Account, *, created_since_ns: int, failed_since_ns: int, limit: int
    ) -> list[OrderTask]:
        """Return what of an account may need a person, what is in doubt first, each newest first.

        That is UNKNOWN of any age, MANUAL that was asked for since an instant, and of that what was
        rejected, expired or not placed and took its last step since another one.
        """
        ...

    async def events_of(self, task_id: uuid.UUID, *, limit: int) -> list[OrderEvent]:
        """Return the first events of a task, oldest first."""
        ...

    async def events_after(
        self, account: Account, account_seq: int, *, limit: int
    ) -> list[OrderEvent]:
        """Return an account's events with a greater number, in order."""
        ...

    async def last_seq(self, account: Account) -> int:
        """Return the number of an account's newest event, 0 before the first."""
        ...

    async def delivered_seq(self, account: Account, sink: str) -> int:
        """Return up to which number a sink has had an account's events."""
        ...

    async def set_delivered(self, account: Account, sink: str, account_seq: int) -> None:
        """Remember up to which number a sink has had an account's events."""
        ...

    async def halt(self, halt: Halt) -> None:
        """Keep that an account was halted; said twice it is the same."""
        ...

    async def halts(self, account: Account) -> list[Halt]:
        """Return the newest halt of each code an account ever had, lifted or over as it may be."""
        ...

    async def keep_breaker(self, step: BreakerStep) -> None:
        """Keep a transition of an account's breaker."""
        ...

    async def breakers(self, account: Account) -> list[KeptBreaker]:
        """Return how each breaker of an account stands that ever opened."""
        ...

    async def lift_halts(
        self, account: Account, *, by_whom: str, now_ns: int, code: HaltCode | None = None
    ) -> list[Halt]:
        """Lift what halts an account, or one reason of it, and return what did."""
        ...

    async def keep_risk_limits(self, table: RiskTable, *, now_ns: int) -> None:
        """Keep what limits from now on; what was kept last already is not kept again."""
        ...

    async def risk_limits(self, *, limit: int) -> list[KeptLimits]:
        """Return the newest changes of the risk limits, newest first."""
        ...

    async def keep_risk_denial(self, denial: RiskDenial) -> None:
        """Keep what was denied, and of an account's older denials the newest."""
        ...

    async def risk_denials(self, account: Account, *, limit: int) -> list[RiskDenial]:
        """Return an account's newest denials, newest first."""
        ...

    async def keep_day_best(self, account: Account, day: dt.date, best_inr: Decimal) -> None:
        """Keep the best of an account's day, rupees; what was better already stays."""
        ...

    async def day_best(self, account: Account, day: dt.date) -> Decimal:
        """Return the best of an account's day that was kept, rupees, 0 if none was."""
        ...

    async def keep_kill_switch(self, switch: KillSwitch) -> None:
        """Keep a switch that was thrown; said twice it is the same, released or not."""
        ...

    async def kill_switches(self) -> list[KillSwitch]:
        """Return the switches that stand and the newest that were released, oldest first."""
        ...

    async def release_kill_switches(
        self, scope: KillScope, *, by_whom: str, now_ns: int
    ) -> list[KillSwitch]:
        """Release every switch of a scope that stands, and return them as released."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


class KillStore(Protocol):
    """Where this machine keeps the kill switches, whatever else is down; the calls block."""

    def standing(self) -> tuple[KillSwitch, ...]:
        """Return the switches that stand now, oldest first; takes microseconds, never raises."""
        ...

    def throw(self, switch: KillSwitch) -> KillSwitch:
        """Add a switch, unless one alike stands, and return the one that stands, durable.

        Raises:
            ConfigurationError: It could not be kept.
        """
        ...

    def release(self, scope: KillScope, *, by_whom: str, now_ns: int) -> list[KillSwitch]:
        """Release every switch of a scope and return them; raises as :meth:`throw`."""
        ...


class OrderUpdates(Protocol):
    """Who takes what the market data feed brings about orders; neither call waits."""

    def take_update(self, data: object) -> None:
        """Take one order update as it came."""
        ...

    def feed_came_back(self) -> None:
        """Know that updates may have been missed until now."""
        ...


class NoticeBoard(Protocol):
    """Where notices for everybody go."""

    async def post(self, notice: Mapping[str, object]) -> None:
        """Publish one notice.

        Raises:
            PublishError: Not confirmed.
        """
        ...


class OrderEventSink(Protocol):
    """Where an account's events go, in order."""

    async def publish(self, account: Account, events: Sequence[OrderEvent]) -> None:
        """Deliver events in order, each at least once.

        Raises:
            PublishError: Not confirmed; the same events will come again.
        """
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...
