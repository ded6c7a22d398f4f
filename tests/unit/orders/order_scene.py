"""One account's desk on a journal and a broker in memory, at virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from virtual_time import LoopClock

from ticker_service.accounts.breaker import BreakerRules
from ticker_service.accounts.breakers import Breakers
from ticker_service.accounts.halts import Halts
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.accounts.limits import OrderLimits
from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerName
from ticker_service.domain.limit import limits_of
from ticker_service.domain.order import (
    Account,
    BrokerOrder,
    NewTask,
    OrderRequest,
    OrderTask,
    OrderType,
    Product,
    Side,
    TaskKind,
    body_sha256,
    to_fields,
)
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.risk import risk_table
from ticker_service.orders.cancel_all import CancelAll
from ticker_service.orders.desk import AccountDesk
from ticker_service.orders.execute import Executor
from ticker_service.orders.risk_tables import RiskTables
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.crash_points import never
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryJournal, MemoryKillStore, ScriptedBroker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ticker_service.domain.halt import Halt
    from ticker_service.domain.order import OrderEvent
    from ticker_service.orders.risk_fetch import RiskSources

ACCOUNT: Final = Account("MAIN")
NOON_NS: Final = 1_795_242_600 * NS_PER_S
"""2026-11-21 12:00 IST."""
BUY: Final = OrderRequest(
    exchange="NFO",
    tradingsymbol="NIFTY26NOV25000CE",
    transaction_type=Side.BUY,
    order_type=OrderType.LIMIT,
    product=Product.NRML,
    quantity=75,
    price=Decimal("100.05"),
)
_numbers = itertools.count(1)


def broker_order(**changed: Any) -> BrokerOrder:
    """Return a row of the broker's book."""
    values: dict[str, Any] = {
        "order_id": "261121000000001",
        "status": "OPEN",
        "tags": (),
        "exchange": BUY.exchange,
        "tradingsymbol": BUY.tradingsymbol,
        "transaction_type": "BUY",
        "order_type": "LIMIT",
        "product": "NRML",
        "variety": "regular",
        "quantity": 75,
        "price": BUY.price,
        "trigger_price": Decimal(0),
        "filled_quantity": 0,
        "average_price": Decimal(0),
        "user_id": "AB1234",
        "order_timestamp": "",
        "exchange_update_timestamp": "",
        "status_message": "",
        "parent_order_id": "",
    }
    return BrokerOrder(**values | changed)


def task(**changed: Any) -> OrderTask:
    """Return a PLACE task whose intent is committed."""
    values: dict[str, Any] = {
        "task_id": uuid.UUID(int=7),
        "kind": TaskKind.PLACE,
        "account": ACCOUNT,
        "principal": "desk",
        "request_id": "a",
        "client_order_id": "a",
        "body": to_fields(BUY),
        "body_sha256": bytes(32),
        "state": TaskState.SENDING,
        "version": 3,
        "attempt": 1,
        "tag": "T0",
        "writer_epoch": 1,
        "deadline_ns": NOON_NS + 30 * NS_PER_S,
        "send_not_after_ns": NOON_NS + 5 * NS_PER_S,
        "intent_at_ns": NOON_NS,
        "broker_order_id": None,
        "broker_status": None,
        "filled_quantity": 0,
        "average_price": None,
        "reason_code": None,
        "reason": None,
        "target_task_id": None,
        "created_at_ns": NOON_NS,
        "updated_at_ns": NOON_NS,
    }
    return OrderTask(**values | changed)


class Kept:
    """An event sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[OrderEvent] = []
        self.closed = 0

    async def publish(self, _: Account, events: Any) -> None:
        self.events += events

    async def close(self) -> None:
        self.closed += 1


@dataclass
class Scene:
    """The parts of one account; ``opened`` runs its desk for the length of a block."""

    config: OrdersConfig = field(default_factory=OrdersConfig)
    breaker_rules: BreakerRules = field(default_factory=BreakerRules)
    limit_changes: dict[str, int] = field(default_factory=dict)
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    reach: Callable[[str], None] = never
    risk: dict[str, Any] = field(default_factory=dict)
    sources: RiskSources | None = None
    account: Account = ACCOUNT

    def __post_init__(self) -> None:
        self.clock = LoopClock(NOON_NS)
        self.broker = ScriptedBroker(self.clock)
        self.sink = Kept()
        self.kill_store = MemoryKillStore()
        self.halt_changes: list[tuple[str, bool]] = []
        self.renew()

    def _halted(self, halt: Halt, begins: bool) -> None:  # noqa: FBT001 - as `Halts` calls it
        self.halt_changes.append((halt.code.value, begins))

    def renew(self) -> None:
        """Make executor and desk anew, as a restart does; journal and broker stay."""
        chance = random.Random(1)  # noqa: S311 - jitter
        surroundings = Surroundings(clock=self.clock, chance=chance, telemetry=Telemetry())
        rules = {BreakerName.ORDERS: self.breaker_rules}
        self.breakers = Breakers(self.account, clock=self.clock, rules=rules)
        self.breaker = self.breakers.orders
        self.limits = OrderLimits(self.account, self.clock, limits_of(self.limit_changes))
        self.pacer = self.limits.pacer
        self.halts = Halts(self.account, clock=self.clock, on_change=self._halted)
        self.switches = KillSwitches(self.kill_store)
        self.executor = Executor(
            journal=self.journal,
            gateway=self.broker,
            breakers=self.breakers,
            limits=self.limits,
            halts=self.halts,
            switches=self.switches,
            config=self.config,
            surroundings=surroundings,
            reach=self.reach,
        )
        self.tables = RiskTables(risk_table(self.risk))
        self.desk = AccountDesk(
            self.account,
            journal=self.journal,
            gateway=self.broker,
            executor=self.executor,
            sinks={"kept": self.sink},
            config=self.config,
            surroundings=surroundings,
            reach=self.reach,
            tables=self.tables,
            sources=self.sources,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the desk for the length of the block, whether it opens or not."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.desk.run())
            try:
                yield
            finally:
                running.cancel()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run the desk and wait until it takes orders."""
        async with self.running():
            await self.until(lambda: self.desk.state is DeskState.OPEN)
            yield

    async def until(self, condition: Callable[[], object], *, within_s: float = 600.0) -> None:
        """Let virtual time pass until the condition holds."""
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - the time is virtual
                await asyncio.sleep(0.01)

    async def place(self, order: OrderRequest = BUY, **changed: Any) -> OrderTask:
        """Submit a new order."""
        return await self.submit(TaskKind.PLACE, to_fields(order), **changed)

    async def cancel(self, target: OrderTask, **changed: Any) -> OrderTask:
        return await self.submit(TaskKind.CANCEL, {}, target_task_id=target.task_id, **changed)

    async def modify(self, target: OrderTask, **form: str) -> OrderTask:
        return await self.submit(TaskKind.MODIFY, form, target_task_id=target.task_id)

    async def submit(self, kind: TaskKind, body: dict[str, str], **changed: Any) -> OrderTask:
        submitted, _ = await self.desk.submit(self.new(kind, body, **changed))
        return submitted

    def pass_days(self, count: int) -> None:
        """Let days go by in which nothing happens."""
        self.set_clock(count * 86_400.0)

    def set_clock(self, by_s: float) -> None:
        """Set the wall clock, forward or back; the monotonic one goes on as it did."""
        self.clock._start_ns += int(by_s * NS_PER_S)

    def new(self, kind: TaskKind, body: dict[str, str], **changed: Any) -> NewTask:
        """Return an instruction as the door makes it."""
        key = f"key-{next(_numbers)}"
        now_ns = self.clock.now_ns()
        values: dict[str, Any] = {
            "task_id": uuid.uuid4(),
            "kind": kind,
            "account": self.account,
            "principal": "desk",
            "request_id": key,
            "client_order_id": key,
            "body": body,
            "body_sha256": body_sha256(body),
            "deadline_ns": now_ns + int(self.config.deadline_s * NS_PER_S),
            "received_at_ns": now_ns,
        }
        return NewTask(**values | changed)

    def now(self, of: OrderTask) -> OrderTask:
        """Return a task as the journal has it now."""
        return self.journal.tasks[of.task_id]

    async def reaches(self, of: OrderTask, *states: TaskState) -> OrderTask:
        """Wait until a task has been in one of the states, and return it as it is then."""
        await self.until(lambda: {*self.journal.states(of.task_id)} & {*states})
        return self.now(of)


@contextlib.asynccontextmanager
async def cancelling(scene: Scene) -> AsyncIterator[CancelAll]:
    """Let what is open be cancelled, whenever a switch asks for it."""
    work = CancelAll(
        ACCOUNT,
        gateway=scene.broker,
        switches=scene.switches,
        pacer=scene.pacer,
        config=scene.config,
        clock=scene.clock,
    )
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(work.run(lambda: True))
        yield work
        running.cancel()
