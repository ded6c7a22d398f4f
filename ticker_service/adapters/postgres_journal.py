"""The order journal on PostgreSQL. Port ``OrderJournal``.

Path: admit -> [journal] -> execute -> settle -> report. Each write is one statement, so one round
trip and one transaction: the task moves, its event is numbered and appended, an attempt begins or
ends, or nothing of it happens. Who may move what is in the statement's ``WHERE`` and in the
database's triggers (``adapters/migrations``), not here.

Times are kept to the microsecond; see :mod:`ticker_service.adapters.postgres_rows`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from psycopg.types.numeric import Int8

from ticker_service.adapters import postgres_parameters as write
from ticker_service.adapters.postgres_migrate import check_current
from ticker_service.adapters.postgres_pool import Database, JournalOptions, Pool, Unconfirmed
from ticker_service.adapters.postgres_rows import (
    denial_of,
    event_of,
    event_written,
    halt_of,
    kill_switch_of,
    limits_of,
    ns_of,
    task_of,
    time_of,
)
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.adapters.postgres_writer import AccountLocks
from ticker_service.domain import order_events as events
from ticker_service.domain.breaker import BreakerName, BreakerState, KeptBreaker
from ticker_service.domain.order import JOBS, TaskKind, says_the_same
from ticker_service.domain.order_state import TaskState, present_of
from ticker_service.domain.risk import DENIALS_KEPT
from ticker_service.errors import (
    IdempotencyConflict,
    InvariantViolatedError,
    OrderRefused,
    TaskMoved,
)
from ticker_service.ports import Admitted, PastOrder, PastSend

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Collection, Iterator, Mapping

    from ticker_service.adapters.postgres_rows import Row
    from ticker_service.domain.breaker import BreakerStep
    from ticker_service.domain.halt import Halt, HaltCode
    from ticker_service.domain.kill_switch import KillScope, KillSwitch
    from ticker_service.domain.order import Account, NewTask, OrderEvent, OrderTask, TaskUpdate
    from ticker_service.domain.risk import KeptLimits, RiskDenial, RiskTable
    from ticker_service.ports import TaskFollower

# An index row holds a third of a page; a name longer than this is no name.
NAME_LENGTH_MAX: Final = 200
PAGE_ROWS: Final = 500
"""So many tasks at a time; far within the limit of a statement's time."""


class PostgresJournal:
    """The durable record of orders in one database.

    Use as ``async with PostgresJournal(url) as journal``, or call :meth:`open` and :meth:`close`.
    The URL may hold a password and is never shown.

    Thread/Task: belongs to the event loop it was opened in; any number of its tasks may call.
    """

    def __init__(
        self,
        url: str,
        options: JournalOptions | None = None,
        *,
        new_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        options = options or JournalOptions()
        self._new_id = new_id
        self._options = options
        self._sql = Statements.load()
        self._database = Database(url, options, self._sql.configure_session)
        self._orders = Pool(self._database, "orders", options.orders)
        self._queries = Pool(self._database, "queries", options.queries)
        self._locks = AccountLocks(self._database, self._sql)
        self._followers: dict[Account, TaskFollower] = {}
        self._hearers: dict[Account, Callable[[OrderEvent], None]] = {}

    @property
    def is_available(self) -> bool:
        """Whether the database was there when it was last needed."""
        return self._database.is_available

    async def open(self) -> None:
        """Look at what the journal's promises rest on, then begin to connect.

        Raises:
            JournalUnavailable: The database is not there; trying again is safe.
            ConfigurationError: It may lose what it confirms, or lacks a migration.
        """
        connection = await self._database.connect(self._options.orders)
        try:
            await check_current(self._database, connection)
        finally:
            await connection.close()
        await self._orders.open()
        await self._queries.open()

    async def close(self) -> None:
        """Give the account locks and the connections back."""
        await self._locks.close()
        await self._orders.close()
        await self._queries.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def acquire(self, account: Account) -> int:
        """Become the account's one writer; return the new ``writer_epoch``.

        Raises:
            AccountTaken: Another process writes this account.
        """
        return await self._locks.acquire(account)

    async def release(self, account: Account) -> None:
        """Stop being the account's writer."""
        await self._locks.release(account)

    def is_writer(self, account: Account) -> bool:
        """Return whether we are the account's writer as far as is known; ask before each send."""
        return self._locks.is_writer(account)

    async def heartbeat(self) -> frozenset[Account]:
        """Return the accounts whose lock was lost since the last call; stop sending for them."""
        return await self._locks.heartbeat()

    async def watch_writers(self, on_lost: Callable[[frozenset[Account]], None]) -> None:
        """Call :meth:`heartbeat` until cancelled; tell which accounts were lost."""
        await self._locks.watch(on_lost)

    def follow(self, account: Account, follower: TaskFollower) -> None:
        """Tell of every later write of ours to an account's tasks; the newest call counts."""
        self._followers[account] = follower

    def hear_events(self, account: Account, hear: Callable[[OrderEvent], None]) -> None:
        """Tell of the events of later writes of ours, but for the rare ones; see the port."""
        self._hearers[account] = hear

    async def admit(self, new: NewTask) -> Admitted:
        """Journal an instruction in its first state, or return the one its key already names.

        Raises:
            IdempotencyConflict: The key is known with another body, or its ``client_order_id``
                names another order or job.
            TaskMoved: It is the order of a job that places no more.
            OrderRefused: A name is empty, too long, or holds what PostgreSQL cannot.
        """
        _refuse_unstorable(new)
        parameters = write.admission(new, event_id=self._new_id())
        with self._following(new):
            try:
                rows = await self._orders.run(self._sql.admit_task, parameters)
            except Unconfirmed:
                # The key says whether it was committed; if not even that can be read, or it is not
                # there yet, nobody knows, and the caller sends the same key again.
                known = await self.known(new)
                if known is None:
                    raise
                admitted = Admitted(task=known, is_new=known.task_id == new.task_id)
            else:
                admitted = (
                    Admitted(task=task_of(rows[0]), is_new=True)
                    if rows
                    else Admitted(task=await self._earlier(new), is_new=False)
                )
                for row in rows:
                    self._say(row, parameters, at_ns=admitted.task.created_at_ns)
        self._tell(admitted.task)
        return admitted

    async def adopt_orphan(
        self, new: NewTask, update: TaskUpdate, *, tag: str, sent_at_ns: int
    ) -> Admitted:
        """Journal an order of the broker's that has a tag of ours and no task.

        Raises:
            IdempotencyConflict: Its key or name is another's.
            TaskMoved: We do not write the account, or a task has the tag.
        """
        _refuse_unstorable(new)
        epoch = self._locks.epoch(new.account)
        if epoch is None or not self.is_writer(new.account):
            raise TaskMoved(f"the lock of the account is not ours, account={new.account}")
        known = await self.known(new)
        if known is not None:
            return Admitted(task=known, is_new=False)
        parameters = write.adoption(
            new,
            update,
            tag=tag,
            writer_epoch=epoch,
            sent_at_ns=sent_at_ns,
            event_id=self._new_id(),
        )
        with self._following(new):
            try:
                rows = await self._orders.run(self._sql.adopt_orphan, parameters)
            except Unconfirmed:
                known = await self.known(new)
                if known is None:
                    raise
                return Admitted(task=known, is_new=known.task_id == new.task_id)
            if not rows:
                await self._why_not_adopted(new, tag)
        adopted = task_of(rows[0])
        self._tell(adopted)
        return Admitted(task=adopted, is_new=True)

    async def _why_not_adopted(self, new: NewTask, tag: str) -> NoReturn:
        if await self.tasks_by_tag(new.account, [tag]):
            raise TaskMoved(f"a task has the tag, tag={tag}")
        named = {"principal": new.principal, "client_order_id": new.client_order_id}
        if await self._orders.run(self._sql.task_by_client_order, named):
            raise IdempotencyConflict(
                "IDEMPOTENCY_CONFLICT",
                "this client_order_id names another order; nothing was done",
                field="client_order_id",
                value=new.client_order_id,
            )
        raise TaskMoved(f"its writer is superseded, account={new.account}")

    async def known(self, new: NewTask) -> OrderTask | None:
        """Return the task that an instruction's key already names, where it has come to.

        Raises:
            IdempotencyConflict: The key is known with another body.
            OrderRefused: A name is empty, too long, or holds what PostgreSQL cannot.
        """
        _refuse_unstorable(new)
        key = {"principal": new.principal, "request_id": new.request_id}
        known = await self._orders.run(self._sql.task_by_request, key)
        if known and not says_the_same(task_of(known[0]), new):
            raise IdempotencyConflict(
                "IDEMPOTENCY_CONFLICT",
                "this key was used before for another request; nothing was done",
                field="request_id",
                value=new.request_id,
            )
        return present_of([task_of(row) for row in known]) if known else None

    async def claim(
        self, task: OrderTask, *, tag: str, writer_epoch: int, now_ns: int, send_not_after_ns: int
    ) -> OrderTask:
        """Commit the intent: READY to SENDING, attempt + 1, one attempt row with its unique tag.

        Raises:
            TaskMoved: The task is no longer what ``task`` says, or the epoch is not the newest.
        """
        if not self.is_writer(task.account):
            raise TaskMoved(f"the lock of the account is not ours, account={task.account}")
        parameters = write.intent(
            task,
            tag=tag,
            writer_epoch=writer_epoch,
            now_ns=now_ns,
            send_not_after_ns=send_not_after_ns,
            event_id=self._new_id(),
        )
        return await self._move(self._sql.claim_task, task, parameters)

    async def record(self, task: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        """Append one event and move the task, if it is still at ``task.version``.

        A step out of SENDING is the newest writer's to make, and back to READY only the sender's;
        the sender may record the broker's yes with its order id also when it is superseded.

        Raises:
            TaskMoved: It has moved on; read it again and merge again.
        """
        parameters = write.step(
            task,
            update,
            writer_epoch=self._fence(task, update),
            now_ns=now_ns,
            event_id=self._new_id(),
        )
        return await self._move(self._sql.record_step, task, parameters)

    async def hand_over(
        self, task: OrderTask, update: TaskUpdate, successor: NewTask, *, now_ns: int
    ) -> OrderTask:
        """End a task and let another go on for it on another account, both or neither.

        Raises:
            TaskMoved: It has moved on, or we are not the newest writer of both accounts.
        """
        epochs = self._locks.epoch(task.account), self._locks.epoch(successor.account)
        if not (self.is_writer(task.account) and self.is_writer(successor.account)):
            raise TaskMoved(f"not the writer of both, from={task.account} to={successor.account}")
        # The successor's is made first, as the golden journals have it.
        goes_on_id, ends_id = self._new_id(), self._new_id()
        parameters = write.hand_over(
            task,
            update,
            successor,
            writer_epochs=epochs,
            now_ns=now_ns,
            event_ids=(ends_id, goes_on_id),
        )
        with self._following(successor):
            admitted = await self._move(
                self._sql.hand_over_task, task, parameters, event_id=goes_on_id
            )
        self._tell(dataclasses.replace(task, state=update.state, version=task.version + 1))
        return admitted

    async def lineage(self, task: OrderTask) -> list[OrderTask]:
        """Return the tasks of one instruction on all accounts it has been on, the newest last."""
        wanted = {"lineage_id": task.lineage_id}
        return [task_of(row) for row in await self._orders.run(self._sql.lineage, wanted)]

    async def task(self, task_id: uuid.UUID) -> OrderTask | None:
        """Return one task."""
        return _first(await self._orders.run(self._sql.task_by_id, {"task_id": task_id}))

    async def task_of_order(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the PLACE task a caller named so, on the account it has come to."""
        named = {"principal": principal, "client_order_id": client_order_id}
        found = await self._queries.run(self._sql.task_by_client_order, named)
        return present_of([task_of(row) for row in found]) if found else None

    async def unsent(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in RECEIVED and READY, as they were admitted."""
        return await self._open_work(self._sql.unsent_tasks, account)

    async def in_doubt(self, account: Account) -> list[OrderTask]:
        """Return an account's instructions in SENDING and UNKNOWN, oldest first."""
        return await self._open_work(self._sql.tasks_in_doubt, account)

    async def live_orders(self, account: Account) -> list[OrderTask]:
        """Return an account's PLACE tasks in ACKED, WORKING and PARTIAL, oldest first."""
        return await self._open_work(self._sql.live_orders, account)

    async def changes_of_open(self, account: Account) -> list[OrderTask]:
        """Return the MODIFY tasks that may count for an order that has not ended, oldest first."""
        return await self._open_work(self._sql.changes_of_open, account)

    async def tasks_by_tag(self, account: Account, tags: Collection[str]) -> dict[str, OrderTask]:
        """Return the tasks one of whose attempts carries one of these tags, by that tag."""
        left, found = list(tags), dict[str, "OrderTask"]()
        while left:
            page, left = left[:PAGE_ROWS], left[PAGE_ROWS:]
            wanted = {"account": account, "tags": page}
            rows = await self._orders.run(self._sql.tasks_by_tag, wanted)
            found |= {row["attempt_tag"]: task_of(row) for row in rows}
        return found

    async def tasks_by_order_id(
        self, account: Account, order_ids: Collection[str]
    ) -> list[OrderTask]:
        """Return the PLACE tasks that the broker calls by one of these ids, oldest first."""
        wanted = {"account": account, "order_ids": [events.text(each) for each in order_ids]}
        return [task_of(row) for row in await self._orders.run(self._sql.tasks_by_order_id, wanted)]

    async def order_ids_since(self, account: Account, since_ns: int) -> set[str]:
        """Return the broker's ids of the account's orders whose intent is not older."""
        wanted = {"account": account, "since": time_of(since_ns)}
        found = await self._orders.run(self._sql.order_ids_since, wanted)
        return {row["broker_order_id"] for row in found}

    async def orders_since(self, account: Account, since_ns: int, *, limit: int) -> list[PastOrder]:
        """Return the account's newest orders admitted since an instant, oldest first."""
        wanted = {"account": account, "since": time_of(since_ns), "limit": Int8(limit)}
        return [
            PastOrder(
                task_id=row["task_id"],
                principal=row["principal"],
                client_order_id=row["client_order_id"],
                job_id=row["job_id"],
                body=row["body"],
                at_ns=ns_of(row["created_at"]),
            )
            for row in reversed(await self._orders.run(self._sql.orders_since, wanted))
        ]

    async def placed_since(self, account: Account, since_ns: int) -> int:
        """Return how many sends of new orders the broker may have counted since an instant."""
        wanted = {"account": account, "since": time_of(since_ns)}
        return int((await self._orders.run(self._sql.placed_since, wanted))[0]["placed"])

    async def sends_since(self, account: Account, since_ns: int) -> list[PastSend]:
        """Return the sends of any kind since an instant that may have left, oldest first."""
        wanted = {"account": account, "since": time_of(since_ns)}
        found = await self._orders.run(self._sql.sends_since, wanted)
        return [
            PastSend(kind=TaskKind(row["kind"]), at_ns=ns_of(row["intent_at"])) for row in found
        ]

    async def changes_sent(self, target_task_id: uuid.UUID) -> int:
        """Return how many changes of an order the broker may have counted."""
        wanted = {"target_task_id": target_task_id}
        return int((await self._orders.run(self._sql.changes_sent, wanted))[0]["sent"])

    async def tasks_of(
        self,
        principal: str,
        accounts: Collection[Account],
        *,
        limit: int,
        only_open: bool = False,
    ) -> list[OrderTask]:
        """Return a caller's newest tasks on some accounts, newest first."""
        wanted = {"principal": principal, "accounts": list(accounts), "limit": Int8(limit)}
        statement = self._sql.open_tasks_of if only_open else self._sql.tasks_of
        return [task_of(row) for row in await self._queries.run(statement, wanted)]

    async def changes_of(self, target_task_id: uuid.UUID, *, limit: int) -> list[OrderTask]:
        """Return the newest changes and cancels of an order, newest first."""
        wanted = {"target_task_id": target_task_id, "limit": Int8(limit)}
        return [task_of(row) for row in await self._queries.run(self._sql.changes_of, wanted)]

    async def job_of(self, principal: str, client_order_id: str) -> OrderTask | None:
        """Return the job a caller named so."""
        named = {"principal": principal, "client_order_id": client_order_id}
        return _first(await self._queries.run(self._sql.job_by_key, named))

    async def open_jobs(self, account: Account) -> list[OrderTask]:
        """Return an account's jobs that have something left to do, oldest first."""
        wanted = {"account": account, "limit": Int8(PAGE_ROWS)}
        return [task_of(row) for row in await self._orders.run(self._sql.open_jobs, wanted)]

    async def children_of(self, job_ids: Collection[uuid.UUID]) -> list[OrderTask]:
        """Return all that was asked in the name of some jobs, part by part."""
        wanted = {"job_ids": list(job_ids)}
        return [task_of(row) for row in await self._orders.run(self._sql.children_of, wanted)]

    async def task_of_request(self, principal: str, request_id: str) -> OrderTask | None:
        """Return the task that a principal's key names."""
        key = {"principal": principal, "request_id": request_id}
        return _first(await self._queries.run(self._sql.task_by_request, key))

    async def dead_letters(
        self, account: Account, *, created_since_ns: int, failed_since_ns: int, limit: int
    ) -> list[OrderTask]:
        """Return what of an account may need a person, what is in doubt first."""
        wanted = {
            "account": account,
            "created_since": time_of(created_since_ns),
            "failed_since": time_of(failed_since_ns),
            "limit": Int8(limit),
        }
        return [task_of(row) for row in await self._queries.run(self._sql.dead_letters, wanted)]

    async def events_of(self, task_id: uuid.UUID, *, limit: int) -> list[OrderEvent]:
        """Return the first events of a task, oldest first."""
        wanted = {"task_id": task_id, "limit": Int8(limit)}
        return [event_of(row) for row in await self._queries.run(self._sql.task_events, wanted)]

    async def events_after(
        self, account: Account, account_seq: int, *, limit: int
    ) -> list[OrderEvent]:
        """Return an account's events with a greater number, in order."""
        wanted = {"account": account, "account_seq": Int8(account_seq), "limit": Int8(limit)}
        return [event_of(row) for row in await self._queries.run(self._sql.events_after, wanted)]

    async def last_seq(self, account: Account) -> int:
        """Return the number of an account's newest event, 0 before the first."""
        rows = await self._queries.run(self._sql.last_seq, {"account": account})
        return int(rows[0]["last_seq"]) if rows else 0

    async def delivered_seq(self, account: Account, sink: str) -> int:
        """Return up to which number a sink has had an account's events."""
        named = {"account": account, "sink": sink}
        rows = await self._queries.run(self._sql.delivered_seq, named)
        return int(rows[0]["account_seq"]) if rows else 0

    async def set_delivered(self, account: Account, sink: str, account_seq: int) -> None:
        """Remember up to which number a sink has had an account's events; it never falls."""
        reached = {"account": account, "sink": sink, "account_seq": Int8(account_seq)}
        await self._queries.run(self._sql.set_delivered, reached)

    async def halt(self, halt: Halt) -> None:
        """Keep that an account was halted."""
        await self._add_halt(halt, "halted", by_whom="daemon", now_ns=halt.since_ns)

    async def halts(self, account: Account) -> list[Halt]:
        """Return the newest halt of each code an account ever had."""
        found = await self._orders.run(self._sql.newest_halts, {"account": account})
        return [halt_of(row) for row in found]

    async def lift_halts(
        self, account: Account, *, by_whom: str, now_ns: int, code: HaltCode | None = None
    ) -> list[Halt]:
        """Lift what halts an account, or one reason of it, and return what did."""
        found = [halt for halt in await self.halts(account) if halt.stands(now_ns)]
        standing = [halt for halt in found if code in {None, halt.code}]
        for halt in standing:
            await self._add_halt(halt, "lifted", by_whom=by_whom, now_ns=now_ns)
        return standing

    async def keep_breaker(self, step: BreakerStep) -> None:
        """Keep a transition of an account's breaker, at the database's time."""
        parameters = {
            "account": step.account,
            "breaker": step.breaker.value,
            "before": step.before.value,
            "after": step.after.value,
            "failures": Int8(step.failures),
        }
        await self._orders.run(self._sql.keep_breaker, parameters)

    async def breakers(self, account: Account) -> list[KeptBreaker]:
        """Return how each breaker of an account stands that ever opened."""
        return [
            KeptBreaker(
                breaker=BreakerName(row["breaker"]),
                state=BreakerState(row["state"]),
                age_s=row["age_s"],
            )
            for row in await self._orders.run(self._sql.breakers, {"account": account})
        ]

    async def _add_halt(self, halt: Halt, step: str, *, by_whom: str, now_ns: int) -> None:
        parameters = {
            "account": halt.account,
            "code": halt.code.value,
            "step": step,
            "reason": events.text(halt.reason),
            "since": time_of(halt.since_ns),
            "until": None if halt.until_ns is None else time_of(halt.until_ns),
            "at": time_of(now_ns),
            "by_whom": by_whom,
        }
        await self._orders.run(self._sql.add_halt, parameters)

    async def keep_risk_limits(self, table: RiskTable, *, now_ns: int) -> None:
        """Keep what limits from now on; what was kept last already is not kept again."""
        parameters = {
            "version": table.version,
            "said": write.as_json(dict(table.said)),
            "at": time_of(now_ns),
        }
        await self._queries.run(self._sql.keep_risk_limits, parameters)

    async def risk_limits(self, *, limit: int) -> list[KeptLimits]:
        """Return the newest changes of the risk limits, newest first."""
        wanted = {"limit": Int8(limit)}
        return [
            limits_of(row) for row in await self._queries.run(self._sql.newest_risk_limits, wanted)
        ]

    async def keep_risk_denial(self, denial: RiskDenial) -> None:
        """Keep what was denied, and of an account's older denials the newest."""
        told = {
            name: events.storable(value)
            for name, value in dataclasses.asdict(denial).items()
            if name not in {"account", "at_ns"}
        }
        parameters = {
            "account": denial.account,
            "at": time_of(denial.at_ns),
            "told": write.as_json(told),
            "older": Int8(DENIALS_KEPT - 1),
        }
        await self._queries.run(self._sql.keep_risk_denial, parameters)

    async def risk_denials(self, account: Account, *, limit: int) -> list[RiskDenial]:
        """Return an account's newest denials, newest first."""
        wanted = {"account": account, "limit": Int8(limit)}
        found = await self._queries.run(self._sql.newest_risk_denials, wanted)
        return [denial_of(row) for row in found]

    async def keep_day_best(self, account: Account, day: dt.date, best_inr: Decimal) -> None:
        """Keep the best of an account's day; what was better already stays."""
        parameters = {"account": account, "trading_date": day, "best_inr": best_inr}
        await self._orders.run(self._sql.keep_day_best, parameters)

    async def day_best(self, account: Account, day: dt.date) -> Decimal:
        """Return the best of an account's day that was kept, 0 if none was."""
        wanted = {"account": account, "trading_date": day}
        found = await self._orders.run(self._sql.day_best, wanted)
        return Decimal(found[0]["best_inr"]) if found else Decimal(0)

    async def keep_kill_switch(self, switch: KillSwitch) -> None:
        """Keep a switch that was thrown."""
        parameters = {
            "switch_id": switch.switch_id,
            "scope": str(switch.scope),
            "level": switch.level.value,
            "why": events.text(switch.why),
            "by_whom": events.text(switch.by_whom),
            "since": time_of(switch.since_ns),
        }
        await self._orders.run(self._sql.keep_kill_switch, parameters)

    async def kill_switches(self) -> list[KillSwitch]:
        """Return the switches that stand and the newest that were released, oldest first."""
        return [kill_switch_of(row) for row in await self._orders.run(self._sql.kill_switches, {})]

    async def release_kill_switches(
        self, scope: KillScope, *, by_whom: str, now_ns: int
    ) -> list[KillSwitch]:
        """Release every switch of a scope that stands, and return them as released."""
        parameters = {
            "scope": str(scope),
            "released": time_of(now_ns),
            "released_by": events.text(by_whom),
        }
        found = await self._orders.run(self._sql.release_kill_switches, parameters)
        return [kill_switch_of(row) for row in found]

    async def _open_work(self, statement: bytes, account: Account) -> list[OrderTask]:
        """Read open work page by page: no statement grows with what is open.

        Its order is by what never changes, so nothing that is open all the while is overlooked.
        """
        found: list[OrderTask] = []
        wanted = {"account": account, "limit": Int8(PAGE_ROWS)}
        after = {"after": time_of(0), "after_id": uuid.UUID(int=0), "after_seq": Int8(0)}
        while True:
            rows = await self._orders.run(statement, wanted | after)
            found += map(task_of, rows)
            if len(rows) < PAGE_ROWS:
                return found
            last = rows[-1]
            after = {
                "after": last["created_at"],
                "after_id": last["task_id"],
                "after_seq": Int8(last.get("admitted_seq", 0)),
            }

    async def _move(
        self,
        statement: bytes,
        task: OrderTask,
        parameters: Mapping[str, object],
        *,
        event_id: object = None,
    ) -> OrderTask:
        with self._following(task):
            try:
                moved = await self._orders.run(statement, parameters)
            except Unconfirmed:
                # The event's id says whether it was committed. Its absence says nothing: the server
                # may still be at it, so the caller has to read again before it decides.
                committed = {"event_id": event_id or parameters["event_id"]}
                moved = await self._orders.run(self._sql.task_of_event, committed)
                if not moved:
                    raise
        if not moved:
            raise TaskMoved(await self._why_not(task))
        left = task_of(moved[0])
        self._say(moved[0], parameters, at_ns=left.updated_at_ns)
        self._tell(left)
        return left

    @contextlib.contextmanager
    def _following(self, task: NewTask | OrderTask) -> Iterator[None]:
        """Let it be known when the outcome of a write is not."""
        try:
            yield
        except (OrderRefused, TaskMoved):
            raise
        except BaseException:
            if task.account in self._followers:
                self._followers[task.account].doubted(task.task_id, task.deadline_ns)
            raise

    def _tell(self, task: OrderTask) -> None:
        if task.account in self._followers:
            self._followers[task.account].moved(task)

    def _say(self, row: Row, parameters: Mapping[str, Any], *, at_ns: int) -> None:
        """Tell of the event of a write that says its number; of another's it is to be read."""
        account = row["account"]
        if account in self._hearers and "account_seq" in row:
            self._hearers[account](event_written(row, parameters, at_ns=at_ns))

    async def _why_not(self, task: OrderTask) -> str:
        known = await self.task(task.task_id)
        now = "it does not exist" if known is None else f"version={known.version} {known.state}"
        return (
            f"the task moved or its writer is superseded, task_id={task.task_id}"
            f" expected: version={task.version} {task.state} found: {now}"
            f" our_epoch={self._locks.epoch(task.account)}"
        )

    async def _earlier(self, new: NewTask) -> OrderTask:
        known = await self.known(new)
        if known is not None:
            return known
        if new.kind in {TaskKind.PLACE, *JOBS}:
            named = {"principal": new.principal, "client_order_id": new.client_order_id}
            found = await self._orders.run(self._sql.task_by_client_order, named)
            if found or await self._orders.run(self._sql.job_by_key, named):
                raise IdempotencyConflict(
                    "IDEMPOTENCY_CONFLICT",
                    "this client_order_id names an order of another request; nothing was done",
                    field="client_order_id",
                    value=new.client_order_id,
                )
        if new.job_id is not None:
            raise TaskMoved(f"the job places no more, or has this part, job_id={new.job_id}")
        raise InvariantViolatedError(f"Invariant: a task_id is new, task_id={new.task_id}")

    def _fence(self, task: OrderTask, update: TaskUpdate) -> int | None:
        """Return the epoch that must be the newest for this step, None when any may make it."""
        if task.state is not TaskState.SENDING:
            return None
        held = self._locks.epoch(task.account)
        ours = task.writer_epoch if held is None else held
        is_yes = update.state is TaskState.ACKED and bool(update.broker_order_id)
        if is_yes and task.writer_epoch == ours:
            # Nobody else may ever learn this id, and an order without it may be called absent.
            return None
        return ours


def _refuse_unstorable(new: NewTask) -> None:
    names = {
        "account": new.account,
        "principal": new.principal,
        "request_id": new.request_id,
        "client_order_id": new.client_order_id,
    }
    for field, name in names.items():
        if not 1 <= len(name) <= NAME_LENGTH_MAX:
            rule = f"must have 1 to {NAME_LENGTH_MAX} characters"
            raise OrderRefused("INVALID_FIELD", rule, field=field, value=name[:NAME_LENGTH_MAX])
    for field, value in [*names.items(), *new.body.items()]:
        if events.text(field) != field or events.text(value) != value:
            rule = "must be text without NUL and unpaired surrogates"
            raise OrderRefused("INVALID_FIELD", rule, field=field, value=value)


def _first(rows: list[Row]) -> OrderTask | None:
    return task_of(rows[0]) if rows else None
