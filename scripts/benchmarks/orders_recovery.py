"""Part of the suite ``orders``: what a daemon does after kill -9 with thousands of tasks open.

The journal is filled through its own port, the broker's book by its own POSTs, alike on all
accounts: a fifth each is READY and out of time, READY and still to be sent, SENDING, UNKNOWN, and
WORKING in the broker's book; of those in doubt every other one is in the book, too. A daemon begins
to work on that and is killed at once; the next one is timed from the start of its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Final

import httpx
import psycopg

from scripts.benchmarks import machine, service
from scripts.benchmarks.measure import Disagreement, Result
from ticker_service.adapters.postgres_journal import PostgresJournal
from ticker_service.adapters.postgres_pool import JournalOptions, PoolOptions
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import Account, NewTask, TaskKind, TaskUpdate, body_sha256
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.tag import tag_of
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from app.console.demo_parts import Relay
    from scripts.benchmarks.orders_scene import Broker
    from ticker_service.domain.order import OrderTask

KINDS: Final = ("expired", "ready", "sending", "unknown", "working")
AT_ONCE: Final = 16
INSTALLATION: Final = "T0"
PRINCIPAL: Final = "recovery"
DEADLINE_S: Final = 600
SETTLED_S_MAX: Final = 300.0
LOOK_S: Final = 0.2
MB: Final = 1e6
SETTINGS: Final = {"ORDER_REQUEST_S": 2, "ORDER_SETTLE_AFTER_S": 5, "ORDER_SETTLE_SPACING_S": 0.5}
"""An order in doubt gets 5 s to surface, and not 90: what is timed is our work, not the wait."""
OPEN_WORK: Final = "('RECEIVED', 'READY', 'SENDING', 'UNKNOWN', 'ACKED')"
"""What was acknowledged is at rest once an update or a book has said so."""


async def measured(broker: Broker, relay: Relay, *, tasks: int) -> Result:
    """Fill journal and book, kill a daemon over it, and time the next one."""
    await _fill(broker, tasks)
    settings = broker.daemon_settings(**SETTINGS)
    with machine.on_all_cores():
        async with service.daemon(relay, settings) as doomed:
            os.kill(doomed.pid, signal.SIGKILL)
        left = await _states(broker)
        began_s = asyncio.get_running_loop().time()
        statements_before = await _statements(broker)
        async with service.daemon(relay, settings) as daemon:
            await daemon.opens(len(broker.tokens))
            open_s = asyncio.get_running_loop().time() - began_s
            await _settled(broker)
            settled_s = asyncio.get_running_loop().time() - began_s
            metrics = await daemon.metrics()
            statements = await _statements(broker) - statements_before
    ended = await _states(broker)
    _check(tasks, ended)
    return Result(
        name="orders_recovery",
        ours=1.0 / open_s,
        peer=None,
        unit="1/s, to open",
        against="nothing: nobody else journals and settles",
        more={
            "open_s": open_s,
            "settled_s": settled_s,
            "tasks": tasks,
            "statements_per_task": statements / tasks,
            "cpu_s": metrics[service.CPU_SECONDS],
            "resident_mb": metrics[service.RESIDENT_BYTES] / MB,
            "settle_after_s": SETTINGS["ORDER_SETTLE_AFTER_S"],
            "found": dict(left),
            "left": dict(ended),
        },
    )


async def _fill(broker: Broker, tasks: int) -> None:
    options = JournalOptions(
        orders=PoolOptions(size_min=AT_ONCE, size_max=AT_ONCE, synchronous_commit="off", wait_s=30)
    )
    access = broker.exchange
    async with (
        httpx.AsyncClient(trust_env=False, timeout=60.0, base_url=access.rest_root) as http,
        PostgresJournal(broker.database_url, options) as journal,
    ):
        epochs = {name: await journal.acquire(Account(name)) for name in broker.tokens}
        filler = _Filler(broker, journal, http, epochs)
        names = list(broker.tokens)
        room = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                account = names[number % len(names)]
                kind = KINDS[number // len(names) % len(KINDS)]
                is_in_book = number // len(names) // len(KINDS) % 2 == 0
                await room.acquire()
                group.create_task(
                    filler.add(account, kind, is_in_book=is_in_book)
                ).add_done_callback(lambda _: room.release())


class _Filler:
    """Brings one task after the other to where a kill would leave it."""

    def __init__(
        self,
        broker: Broker,
        journal: PostgresJournal,
        http: httpx.AsyncClient,
        epochs: dict[str, int],
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._http = http
        self._epochs = epochs
        self._clock = SystemClock()

    async def add(self, account: str, kind: str, *, is_in_book: bool) -> None:
        """Add one of a kind; of those in doubt only some are in the book."""
        now_ns = self._clock.now_ns()
        task_id = uuid.uuid4()
        body = self._broker.order
        lasts_s = -1 if kind == "expired" else DEADLINE_S
        new = NewTask(
            task_id=task_id,
            kind=TaskKind.PLACE,
            account=Account(account),
            principal=PRINCIPAL,
            request_id=f"{kind}-{task_id}",
            client_order_id=f"{kind}-{task_id}",
            body=body,
            body_sha256=body_sha256(body),
            deadline_ns=now_ns + lasts_s * NS_PER_S,
            received_at_ns=now_ns,
        )
        task = (await self._journal.admit(new)).task
        task = await self._record(task, TaskUpdate(state=TaskState.READY, event="ready"))
        if kind in {"expired", "ready"}:
            return
        tag = tag_of(INSTALLATION, task_id, 1)
        task = await self._journal.claim(
            task,
            tag=tag,
            writer_epoch=self._epochs[account],
            now_ns=now_ns,
            send_not_after_ns=now_ns + 5 * NS_PER_S,
        )
        order_id = ""
        if kind == "working" or is_in_book:
            order_id = await self._post(account, {**body, "tag": tag})
        if kind == "unknown":
            doubt = TaskUpdate(state=TaskState.UNKNOWN, event="send_ambiguous", outcome="AMBIGUOUS")
            await self._record(task, doubt)
        if kind == "working":
            yes = TaskUpdate(
                state=TaskState.ACKED,
                event="send_acked",
                broker_order_id=order_id,
                outcome="ACKED",
                http_status=200,
            )
            await self._record(task, yes)

    async def _record(self, task: OrderTask, update: TaskUpdate) -> OrderTask:
        return await self._journal.record(task, update, now_ns=self._clock.now_ns())

    async def _post(self, account: str, form: dict[str, str]) -> str:
        key = f"token {self._broker.exchange.api_key}:{self._broker.tokens[account]}"
        answer = await self._http.post("/orders/regular", data=form, headers={"Authorization": key})
        order_id: str = answer.raise_for_status().json()["data"]["order_id"]
        return order_id


async def _settled(broker: Broker) -> None:
    async with await psycopg.AsyncConnection.connect(broker.database_url, autocommit=True) as one:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S_MAX):
                while True:
                    cursor = await one.execute(
                        f"SELECT count(*) FROM order_task WHERE state IN {OPEN_WORK}"  # noqa: S608
                    )
                    found = await cursor.fetchone()
                    if found is not None and not found[0]:
                        return
                    await asyncio.sleep(LOOK_S)
    raise Disagreement(f"not settled within {SETTLED_S_MAX} s: {await _states(broker)}")


async def _states(broker: Broker) -> Counter[str]:
    async with await psycopg.AsyncConnection.connect(broker.database_url, autocommit=True) as one:
        cursor = await one.execute(
            "SELECT split_part(client_order_id, '-', 1) || ' ' || state, count(*) FROM order_task"
            " WHERE principal = %s GROUP BY 1",
            [PRINCIPAL],
        )
        return Counter(dict(await cursor.fetchall()))


async def _statements(broker: Broker) -> int:
    async with await psycopg.AsyncConnection.connect(broker.database_url, autocommit=True) as one:
        cursor = await one.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        found = await cursor.fetchone()
    return int(found[0]) if found else 0


def _check(tasks: int, ended: Counter[str]) -> None:
    """Hold the ends to what was laid out.

    Raises:
        Disagreement: Some task came to another end than it should have.
    """
    each = tasks // len(KINDS)
    wanted = Counter(
        {
            "expired EXPIRED": each,
            "ready WORKING": each,
            "sending WORKING": each - each // 2,
            "sending NOT_PLACED": each // 2,
            "unknown WORKING": each - each // 2,
            "unknown NOT_PLACED": each // 2,
            "working WORKING": each,
        }
    )
    if wanted - ended:
        raise Disagreement(f"wanted {dict(wanted)}, found {dict(ended)}")
