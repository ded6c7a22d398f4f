"""The dead-letter desk: what a person has to look at, with its evidence, and what they may decide.

Beside the path of an order; not to be mixed up with `orders.desk`, where one account is worked.
The evidence is the task's events, the newest readings of the broker's book, and a book read for
whoever asks. A decision is one step of the task with who and why among its facts (I9), and what
the broker shows later outweighs it like anything else we say (I7).
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_S
from ticker_service.domain import dead_letter, order_state
from ticker_service.domain.dead_letter import DeskAction
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import (
    OrderRequest,
    OrderType,
    Product,
    Side,
    TaskKind,
    TaskUpdate,
    Variety,
)
from ticker_service.domain.order_events import ORPHAN_ADOPTED
from ticker_service.domain.order_state import FAILED, TaskState
from ticker_service.domain.session import (
    day_start_ns,
    from_instant_ns,
    ist_date,
    read_kite_time,
)
from ticker_service.domain.tag import is_ours
from ticker_service.errors import (
    BrokerUnavailable,
    IdempotencyConflict,
    LoginRequired,
    OrderRefused,
    TaskMoved,
)
from ticker_service.orders.settle import is_older
from ticker_service.runtime.clock import Moment

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    from ticker_service.config import OrdersConfig
    from ticker_service.domain.dead_letter import AuditLine, Decision, Ending
    from ticker_service.domain.order import BrokerOrder, OrderEvent, OrderTask
    from ticker_service.orders.access import Caller
    from ticker_service.orders.book import Look
    from ticker_service.orders.desk import AccountDesk
    from ticker_service.orders.front import FrontDesk
    from ticker_service.orders.instructions import Answer
    from ticker_service.ports import OrderJournal
    from ticker_service.runtime.clock import Clock

LETTERS_MAX: Final = 500
"""The most of an account that is listed at once."""
EVENTS_MAX: Final = 500
CREATED_NS_MAX: Final = 7 * 86_400 * NS_PER_S
"""What no evidence settled is listed for so long; it is in the journal for ever."""
_SAME: Final = ("exchange", "tradingsymbol", "transaction_type", "product")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One task that may need a person: what happens by itself, and what they may do.

    ``not_before_ns`` is the earliest time of what happens by itself, None where nothing does.
    """

    task: OrderTask
    happens: str
    not_before_ns: int | None
    actions: tuple[DeskAction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that is known of one task.

    ``looks`` are the readings of the book since it was sent, as far as this run made them.
    ``alike`` are the orders of the book read just now that may be this one's; None when none could
    be read, and ``unread`` says why.
    """

    letter: Letter
    events: Sequence[OrderEvent]
    looks: Sequence[Look]
    alike: Sequence[BrokerOrder] | None
    unread: str
    resent_as: OrderTask | None
    audit: Sequence[AuditLine]


class DeadLetters:
    """Lists, explains and acts, on all accounts of this process."""

    def __init__(
        self, front: FrontDesk, journal: OrderJournal, config: OrdersConfig, clock: Clock
    ) -> None:
        self._front = front
        self._journal = journal
        self._config = config
        self._clock = clock
        self._turn = asyncio.Lock()
        """One decision at a time: of two that name one order, the second sees the first."""

    async def letters(self, caller: Caller, account: str | None) -> list[Letter]:
        """Return what may need a person, what is in doubt first, then what failed, newest first.

        Raises:
            OrderRefused: The account is none of the caller's.
            JournalUnavailable: It cannot be read now.
        """
        now_ns = self._clock.now_ns()
        found: list[OrderTask] = []
        for desk in self._front.access.desks_of(caller, account):
            found += await self._journal.dead_letters(
                desk.account,
                created_since_ns=now_ns - CREATED_NS_MAX,
                failed_since_ns=day_start_ns(ist_date(now_ns)),
                limit=LETTERS_MAX,
            )
        found.sort(key=lambda task: (task.state in FAILED, -task.created_at_ns))
        return [await self._letter(caller, task) for task in found[:LETTERS_MAX]]

    async def case(self, caller: Caller, task_id: uuid.UUID) -> Case:
        """Return all that is known of one task, of any state, with a book read for it.

        Raises:
            OrderRefused: There is none on an account of the caller's.
            JournalUnavailable: It cannot be read now.
        """
        desk, task = await self._task(caller, task_id)
        events = await self._journal.events_of(task_id, limit=EVENTS_MAX)
        alike, unread = None, ""
        try:
            rows = await desk.book.fresh()
        except (BrokerUnavailable, LoginRequired) as error:
            unread = str(error)
        else:
            alike = [row for row in rows if await self._may_be(task, row)]
        resent_as = await self._resent_as(task)
        told = dead_letter.audit_lines(events)
        if resent_as is not None:
            first = await self._journal.events_of(resent_as.task_id, limit=1)
            told += dead_letter.audit_lines(first)
        since_ns = task.intent_at_ns or task.created_at_ns
        letter = await self._letter(caller, task)
        if resent_as is not None:
            left = tuple(each for each in letter.actions if each is not DeskAction.RESEND)
            letter = dataclasses.replace(letter, actions=left)
        return Case(
            letter=letter,
            events=events,
            looks=[look for look in desk.book.looks if look.began_ns >= since_ns],
            alike=alike,
            unread=unread,
            resent_as=resent_as,
            audit=told,
        )

    async def adopt(
        self, caller: Caller, task_id: uuid.UUID, order_id: str, decision: Decision
    ) -> OrderTask:
        """Record that an order of the broker's is this task's, and return it as it is then.

        Raises:
            OrderRefused: It cannot be: the book, read now, has no such order, or one of another
                instrument, side, quantity or product, or one that is another task's.
            JournalUnavailable: Whether it was recorded is not known; look again.
        """
        async with self._turn:
            desk, task = await self._decidable(caller, task_id, DeskAction.ADOPT)
            rows = await self._book_now(desk)
            row = next((row for row in rows if row.order_id == order_id), None)
            if row is None:
                rule = f"must be an order of the broker's book, which has {len(rows)}"
                raise OrderRefused("NOT_ADOPTED", rule, field="order_id", value=order_id)
            why_not = await self._why_not(task, row)
            if why_not:
                raise OrderRefused("NOT_ADOPTED", why_not, field="order_id", value=order_id)
            update = order_state.merge(task, row)
            if update is None:
                rule = f"a task that is {task.state} cannot be {row.status}"
                raise OrderRefused("NOT_ADOPTED", rule, field="order_id", value=order_id)
            facts = decision.facts(order_id=order_id, was=task.state.value)
            update = dataclasses.replace(update, event=dead_letter.ADOPTED, facts=facts)
            orphans = {each.order_id for each in await self._orphans(desk, rows)}
            if desk.dispatcher.failover is not None and await self._goes_on(task) is not None:
                reason = f"order {order_id} is of an order that went on on another account"
                await desk.dispatcher.failover.surfaced(
                    task, reason, read_kite_time(row.order_timestamp)
                )
            adopted = await self._record(desk, task, update)
            if order_id in orphans:
                await self._lift_if_none(desk, orphans - {order_id}, decision)
            return adopted

    async def mark_not_placed(
        self, caller: Caller, task_id: uuid.UUID, decision: Decision
    ) -> OrderTask:
        """Record that a person says that this order is not at the broker.

        Raises:
            OrderRefused: It is being sent, has an order id, or what speaks against it is not
                overruled: the book cannot be read, shows one that may be it, or its time to show is
                not over.
            JournalUnavailable: Whether it was recorded is not known; look again.
        """
        async with self._turn:
            desk, task = await self._decidable(caller, task_id, DeskAction.NOT_PLACED)
            against = await self._against(desk, task)
            if against and not decision.is_forced:
                raise OrderRefused("BOOK_SPEAKS_AGAINST", f"{against}; force it if you are sure")
            update = TaskUpdate(
                state=TaskState.NOT_PLACED,
                event=dead_letter.MARKED_NOT_PLACED,
                reason_code="MARKED_NOT_PLACED",
                reason=f"{decision.by_whom} says that it is not at the broker: {decision.why}",
                facts=decision.facts(was=task.state.value, against=against or None),
            )
            return await self._record(desk, task, update)

    async def close(
        self, caller: Caller, task_id: uuid.UUID, ending: Ending, decision: Decision
    ) -> OrderTask:
        """Record how an order ended whose day is over, as a person read it at the broker.

        Raises:
            OrderRefused: It has no order id, its end is not the journal's to take from a person,
                the book, read now, shows it, or none can be read and that is not overruled.
            JournalUnavailable: Whether it was recorded is not known; look again.
        """
        async with self._turn:
            desk, task = await self._decidable(caller, task_id, DeskAction.CLOSE)
            changes = await self._journal.changes_of(task_id, limit=EVENTS_MAX)
            ending.check(task, changes)
            against = await self._unread_or_shown(desk, task)
            if against and not decision.is_forced:
                raise OrderRefused("BOOK_SPEAKS_AGAINST", f"{against}; force it if you are sure")
            update = TaskUpdate(
                state=ending.state,
                event=dead_letter.CLOSED,
                filled_quantity=ending.filled_quantity,
                average_price=ending.average_price,
                reason_code="CLOSED_BY_PERSON",
                reason=f"{decision.by_whom} read at the broker how it ended: {decision.why}",
                facts=decision.facts(was=task.state.value, against=against or None),
            )
            return await self._record(desk, task, update)

    async def resend(
        self, caller: Caller, task_id: uuid.UUID, client_order_id: str, decision: Decision
    ) -> Answer:
        """Ask for the same once more, as a new order of the same principal with a name of its own.

        An order is resent once: asked again with the same name it is the same new order.

        Raises:
            OrderRefused: It may be at the broker, goes on on another account, was resent under
                another name, or a new order would be refused now.
            JournalUnavailable: Whether it was taken is not known; ask again with the same name.
        """
        async with self._turn:
            desk, task = await self._decidable(caller, task_id, DeskAction.RESEND)
            goes_on = await self._goes_on(task)
            if goes_on is not None:
                rule = f"it {_where(caller, goes_on)}"
                raise OrderRefused("NOT_POSSIBLE", rule, field="task_id", value=str(task_id))
            known = await self._resent_as(task)
            if known is not None and known.client_order_id != client_order_id:
                raise OrderRefused(
                    "RESENT_ALREADY",
                    f"it was resent as {known.client_order_id}, which is {known.state}",
                    field="client_order_id",
                    value=client_order_id,
                )
            if task.state is TaskState.MANUAL and known is None and not decision.is_forced:
                against = await self._against(desk, task)
                if against:
                    rule = f"{against}; force it if you are sure that this one is not there"
                    raise OrderRefused("BOOK_SPEAKS_AGAINST", rule)
            of = {"resend_of": str(task.task_id), "resend_of_order": task.client_order_id}
            try:
                return await self._front.place_again(
                    caller,
                    task,
                    request_id=dead_letter.resend_key(task),
                    client_order_id=client_order_id,
                    facts=decision.facts(**of),
                )
            except IdempotencyConflict as error:
                raise OrderRefused(
                    "IDEMPOTENCY_CONFLICT",
                    f"must be a name that {task.principal} has not used",
                    field="client_order_id",
                    value=client_order_id,
                ) from error

    async def adopt_orphan(
        self,
        caller: Caller,
        account: str,
        order_id: str,
        *,
        client_order_id: str,
        decision: Decision,
    ) -> OrderTask:
        """Take an order that has a tag of ours and no task into the journal, as the caller's.

        It counts from then on like any other of the account, and the caller may cancel it. When no
        orphan is left, what they halted the account for is lifted.

        Raises:
            OrderRefused: The book, read now, has no such orphan, or its words are not known here.
            JournalUnavailable: Whether it was taken is not known; ask again.
        """
        async with self._turn:
            (desk,) = self._front.access.desks_of(caller, account)
            self._check_writer(desk)
            rows = await self._book_now(desk)
            orphans = {row.order_id: row for row in await self._orphans(desk, rows)}
            if order_id not in orphans:
                rule = f"must be one of the {len(orphans)} orphans of the broker's book"
                raise OrderRefused("NOT_ADOPTED", rule, field="order_id", value=order_id)
            row = orphans.pop(order_id)
            new = self._front.to_adopt(
                caller,
                desk.account,
                _asked_of(row),
                request_id=f"orphan:{account}:{order_id}",
                client_order_id=client_order_id,
                facts=decision.facts(order_id=order_id),
            )
            shown = TaskUpdate(
                state=order_state.state_of(row),
                event=ORPHAN_ADOPTED,
                broker_order_id=row.order_id,
                broker_status=row.status,
                filled_quantity=row.filled_quantity,
                average_price=row.average_price if row.filled_quantity else None,
            )
            sent_at_ns = read_kite_time(row.order_timestamp) or new.received_at_ns
            try:
                adopted = await self._journal.adopt_orphan(
                    new, shown, tag=self._tags(row)[0], sent_at_ns=sent_at_ns
                )
            except TaskMoved as error:
                raise OrderRefused("MOVED_MEANWHILE", "look at it again") from error
            desk.owns(order_id)
            await self._lift_if_none(desk, orphans, decision)
            desk.news.ring()
            desk.want_book()
            return adopted.task

    async def _lift_if_none(
        self, desk: AccountDesk, orphans: Collection[str], decision: Decision
    ) -> None:
        """Let the account go on if it was halted for orphans and there are none any more."""
        if not orphans:
            await self._journal.lift_halts(
                desk.account,
                by_whom=decision.by_whom,
                now_ns=self._clock.now_ns(),
                code=HaltCode.ORPHAN_ORDER,
            )
            desk.halts.news.ring()

    async def _orphans(self, desk: AccountDesk, rows: Sequence[BrokerOrder]) -> list[BrokerOrder]:
        """Return the orders that have a tag of ours and no task, by tag or by id."""
        ours = {row.order_id: self._tags(row) for row in rows}
        tags = [tag for each in ours.values() for tag in each]
        tagged = await self._journal.tasks_by_tag(desk.account, tags) if tags else {}
        left = [
            row
            for row in rows
            if ours[row.order_id] and not any(tag in tagged for tag in ours[row.order_id])
        ]
        ids = [row.order_id for row in left]
        named = await self._journal.tasks_by_order_id(desk.account, ids) if ids else []
        known = {task.broker_order_id for task in named}
        return [row for row in left if row.order_id not in known]

    def _tags(self, row: BrokerOrder) -> list[str]:
        return [tag for tag in row.tags if is_ours(tag, self._config.installation)]

    # --- what is known ------------------------------------------------------------------------

    async def _letter(self, caller: Caller, task: OrderTask) -> Letter:
        happens, not_before_ns = self._happens(task)
        actions = dead_letter.actions_for(task)
        goes_on = await self._goes_on(task) if actions else None
        if goes_on is not None:
            happens = f"{_where(caller, goes_on)}; of this one {happens}"
            actions = tuple(each for each in actions if each is not DeskAction.RESEND)
        return Letter(task=task, happens=happens, not_before_ns=not_before_ns, actions=actions)

    async def _goes_on(self, task: OrderTask) -> OrderTask | None:
        """Return what an order of a group has come to on another account, None if it is here."""
        if task.account_group is None:
            return None
        return order_state.goes_on_as(task, await self._journal.lineage(task))

    def _happens(self, task: OrderTask) -> tuple[str, int | None]:
        """Return what becomes of a task without anybody, and when at the earliest."""
        match task.state:
            case TaskState.UNKNOWN:
                return self._settles(task)
            case TaskState.MANUAL if task.broker_order_id is None:
                return "nothing, unless a book shows its tag after all", None
            case TaskState.MANUAL:
                return "nothing, unless a book shows it after all", None
            case TaskState.NOT_PLACED:
                return "nothing, unless its order surfaces: then that counts", None
            case _ if task.state in order_state.TERMINAL:
                return "nothing; it has ended", None
            case _:
                return "it is being worked on", None

    def _settles(self, task: OrderTask) -> tuple[str, int]:
        now = Moment.of(self._clock)
        book = self._front.desks[task.account].book
        proof = book.evidence.proof(task, now)
        if task.kind is not TaskKind.PLACE:
            return "ends when the book shows its order with or without it", proof.not_before_ns
        begins = "" if proof.not_before_ns > now.now_ns else "now "
        lacking = book.looks[-1].lacking if book.looks else 0
        blind = f"; the newest book lacks {lacking} known orders and proves nothing"
        reads_left = max(proof.reads_min - proof.reads, 1)
        happens = (
            f"placed as soon as a book shows its tag, else {begins}NOT_PLACED after {reads_left} "
            f"more whole books without it{blind if lacking else ''}"
        )
        return happens, proof.not_before_ns

    async def _resent_as(self, task: OrderTask) -> OrderTask | None:
        return await self._journal.task_of_request(task.principal, dead_letter.resend_key(task))

    # --- what may be decided ------------------------------------------------------------------

    async def _task(self, caller: Caller, task_id: uuid.UUID) -> tuple[AccountDesk, OrderTask]:
        task = await self._journal.task(task_id)
        desk = None if task is None else self._front.desks.get(task.account)
        if task is None or desk is None or not caller.may_use(task.account):
            rule = "must be a task of an account of yours"
            raise OrderRefused("UNKNOWN_TASK", rule, field="task_id", value=str(task_id))
        return desk, task

    async def _decidable(
        self, caller: Caller, task_id: uuid.UUID, action: DeskAction
    ) -> tuple[AccountDesk, OrderTask]:
        desk, task = await self._task(caller, task_id)
        self._check_writer(desk)
        if action not in dead_letter.actions_for(task):
            rule = f"{action} is not for a {task.kind} that is {task.state}"
            if task.broker_order_id is not None:
                rule += f" and the broker's order {task.broker_order_id}"
            raise OrderRefused("NOT_POSSIBLE", rule, field="task_id", value=str(task_id))
        return desk, task

    def _check_writer(self, desk: AccountDesk) -> None:
        if not self._journal.is_writer(desk.account):
            rule = f"account {desk.account} is {desk.state}; ask the daemon that writes it"
            raise OrderRefused("ACCOUNT_NOT_OPEN", rule)

    async def _book_now(self, desk: AccountDesk) -> Sequence[BrokerOrder]:
        try:
            return await desk.book.fresh()
        except (BrokerUnavailable, LoginRequired) as error:
            raise OrderRefused("BOOK_NOT_READ", f"the broker's book: {error}") from error

    async def _against(self, desk: AccountDesk, task: OrderTask) -> str:
        """Return what speaks against an order's not being at the broker, empty if nothing does."""
        try:
            rows = await desk.book.fresh()
        except (BrokerUnavailable, LoginRequired) as error:
            return f"the broker's book cannot be read: {error}"
        if any(task.tag in row.tags for row in rows):
            return "the book holds it"
        alike = [row.order_id for row in rows if await self._may_be(task, row)]
        if alike:
            return f"the book holds what may be it: {', '.join(alike)}"
        now = Moment.of(self._clock)
        shows_by_ns = desk.book.evidence.proof(task, now).not_before_ns
        if task.state is TaskState.UNKNOWN and shows_by_ns > now.now_ns:
            return f"its order may surface until {from_instant_ns(shows_by_ns):%H:%M:%S} IST"
        return ""

    async def _unread_or_shown(self, desk: AccountDesk, task: OrderTask) -> str:
        """Return why no book of now can be asked about an order of a day before, empty if one was.

        Raises:
            OrderRefused: The book still shows it, and how it ended is taken from there.
        """
        try:
            rows = await desk.book.fresh()
        except (BrokerUnavailable, LoginRequired) as error:
            return f"the broker's book cannot be read, and may still show it: {error}"
        shown = [row for row in rows if row.order_id == task.broker_order_id]
        if shown:
            rule = f"the book still shows it as {shown[0].status}, which counts by itself"
            raise OrderRefused("BOOK_SPEAKS_AGAINST", rule)
        return ""

    async def _may_be(self, task: OrderTask, row: BrokerOrder) -> bool:
        return dead_letter.is_adoptable(task) and not await self._why_not(task, row)

    async def _why_not(self, task: OrderTask, row: BrokerOrder) -> str:
        """Return why a row of the book cannot be a task's order, empty if it can."""
        for name in _SAME:
            if getattr(row, name) != task.body.get(name):
                return f"its {name} is {getattr(row, name)}, not {task.body.get(name)}"
        if str(row.quantity) != task.body["quantity"]:
            return f"its quantity is {row.quantity}, not {task.body['quantity']}"
        if is_older(row, task):
            return f"it was placed at {row.order_timestamp}, before this one was sent"
        ours = self._tags(row)
        if row.tags and not ours:
            return f"it has the tag {row.tags[0]} of another program"
        tagged = await self._journal.tasks_by_tag(task.account, ours) if ours else {}
        named = await self._journal.tasks_by_order_id(task.account, [row.order_id])
        others = [each for each in (*tagged.values(), *named) if each.task_id != task.task_id]
        if others:
            return f"it is the order of {others[0].client_order_id}, task {others[0].task_id}"
        return ""

    async def _record(self, desk: AccountDesk, task: OrderTask, update: TaskUpdate) -> OrderTask:
        try:
            moved = await self._journal.record(task, update, now_ns=self._clock.now_ns())
        except TaskMoved as error:
            raise OrderRefused("MOVED_MEANWHILE", "it moved on; look at it again") from error
        desk.news.ring()
        desk.want_book()
        return moved


def _where(caller: Caller, goes_on: OrderTask) -> str:
    """Return where an order goes on, as far as the caller may know."""
    account = goes_on.account
    on = account if caller.may_use(account) else f"another account of {goes_on.account_group}"
    return f"goes on as task {str(goes_on.task_id)[:8]} on {on}, which is {goes_on.state}"


def _asked_of(row: BrokerOrder) -> OrderRequest:
    """Return what an order of the book must have asked for; the book tells no validity.

    Raises:
        OrderRefused: It has a word that we do not know.
    """
    try:
        return OrderRequest(
            exchange=row.exchange,
            tradingsymbol=row.tradingsymbol,
            transaction_type=Side(row.transaction_type),
            order_type=OrderType(row.order_type),
            product=Product(row.product),
            variety=Variety(row.variety),
            quantity=row.quantity,
            price=row.price or None,
            trigger_price=row.trigger_price or None,
        )
    except ValueError as error:
        rule = f"has a word that is not known here: {error}"
        raise OrderRefused("NOT_ADOPTED", rule, field="order_id", value=row.order_id) from error
