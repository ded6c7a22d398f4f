"""One seed: daemons, callers and a broker for some seconds of trouble, then peace, then the verdict.

What happens follows from the seed alone. In the trouble daemons are killed at random steps, a
second one may stand by and take over, sessions are lost, the journal goes away, tokens end and the
loop stalls; then everything works, and the world is left alone until journal and broker agree.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import virtual_time
from exactly_once import (
    UNRESOLVED,
    AtBroker,
    Attempt,
    Event,
    Records,
    Task,
    unsettled,
    violations,
)
from sim_broker import Hands, Line, Looked, SimBroker
from sim_callers import FUTURE, Person, body_text
from sim_exits import OtherHand, Quotes, wish
from sim_journal import JournalLine
from sim_world import NOON_NS, Process, World

from ticker_service.accounts.breaker import BreakerRules
from ticker_service.accounts.breakers import Breakers
from ticker_service.accounts.halts import Halts
from ticker_service.accounts.kill_switches import KillSwitches
from ticker_service.accounts.limits import OrderLimits
from ticker_service.accounts.token_watch import TokenWatch
from ticker_service.accounts.tokens import AccessToken, MemoryTokens
from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.breaker import BreakerName
from ticker_service.domain.contracts import Contracts
from ticker_service.domain.exposure import Exposure
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch, ScopeKind
from ticker_service.domain.order import Account, Side, TaskKind
from ticker_service.domain.order_replay import EventRefused, differences, replay
from ticker_service.domain.order_state import TaskState, merge
from ticker_service.orders.cancel_all import CancelAll
from ticker_service.orders.desk import AccountDesk
from ticker_service.orders.execute import Executor
from ticker_service.orders.exits import legs_of
from ticker_service.orders.front import FrontDesk
from ticker_service.orders.notices import Notices
from ticker_service.orders.office import OrderOffice
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.orders.standing import DeskState
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry
from ticker_service.testing import MemoryJournal, MemoryKillStore

if TYPE_CHECKING:
    import uuid
    from collections import Counter
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from typing import Any

    from ticker_service.domain.account_group import AccountGroup
    from ticker_service.domain.order import BrokerOrder, OrderEvent, OrderTask
    from ticker_service.orders.audit import Difference

ACCOUNT: Final = Account("MAIN")
CONTRACTS: Final = Contracts(
    day=dt.date(2026, 11, 21),
    key=np.array([f"NFO:{FUTURE}".encode(), b"NSE:INFY"], np.bytes_),
    name_number=np.array([1, 0], np.int32),
    names=("INFY", "NIFTY"),
    price_step=np.array([0.05, 0.05]),
    lot_size=np.array([5, 1], np.int32),
    kind=np.array([1, 0], np.uint8),
)
MERGED: Final = ("broker_order_id", "broker_status", "filled_quantity", "average_price")
CONFIG: Final = OrdersConfig(
    deadline_s=10.0,
    send_window_s=1.0,
    request_s_max=1.5,
    settle_after_s=5.0,
    settle_spacing_s=0.4,
    settle_poll_s=0.3,
    book_poll_live_s=1.0,
    book_poll_idle_s=3.0,
    audit_s=2.0,
    audit_again_s=0.5,
    freeze_quantities={"NIFTY": 30},
)
PEACE_S_MAX: Final = 900.0
"""Peace lasts until all is settled, and at most so long; what is left then is a violation.

A wall clock that was set back again and again prolongs a proof of absence by as much.
"""
QUIET_LOOK_S: Final = 0.5
COMPARED_S: Final = 1.5 * CONFIG.audit_s
TROUBLE_S: Final = 1.5
"""From one trouble to the next, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a seed came to."""

    seed: int
    violations: list[str]
    records: Records
    story: list[str]
    kills: Counter[str]
    met: Counter[str]
    seconds: float


FATAL: Final = (
    "C0",
    "C1",
    "C2",
    "C3",
    "C6",
    "C7",
    "claim about to be asked",
    "claim confirmed",
    "record about to be asked",
    "record confirmed",
    "PLACE about to leave",
    "PLACE has left",
    "PLACE answered",
    "MODIFY has left",
    "CANCEL has left",
    "book read",
    "events delivered",
)
"""Steps that a process is made to die at more often than at others; C4 is where a request has left,
C5 where it is answered."""


def play(seed: int, *, plant: Callable[[Play], None] | None = None) -> Outcome:
    """Play one seed to its end and judge it.

    Args:
        seed: Decides everything.
        plant: Breaks something on purpose before the play begins, to see that it is noticed.
    """
    return virtual_time.run(_play(seed, plant))


async def _play(seed: int, plant: Callable[[Play], None] | None) -> Outcome:
    async with asyncio.TaskGroup() as servers:
        chance = random.Random(seed)  # noqa: S311 - a play is to be repeated
        world = World(chance, servers)
        world.number_tasks()
        the_play = Play(world)
        if plant is not None:
            plant(the_play)
        await the_play.through()
        reserved = the_play.misreserved()
        the_play.end()
        records = the_play.records()
        ended_s = world.now_s()
        world.end()
    return Outcome(
        seed=seed,
        violations=[
            *violations(records),
            *the_play.permuted(),
            *the_play.unexplained(),
            *reserved,
            *the_play.broker.breaches,
            *the_play.false_alarms,
            *world.crashes,
        ],
        records=records,
        story=the_play.story(),
        kills=world.kills,
        met=world.met,
        seconds=ended_s,
    )


class Play:
    """The parts of one play; a plant may replace any of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.account = ACCOUNT
        self.accounts: tuple[Account, ...] = (ACCOUNT,)
        self.groups: tuple[AccountGroup, ...] = ()
        self.sides: tuple[Side, ...] = (Side.BUY, Side.SELL)
        self.config = CONFIG
        self.journal = MemoryJournal(new_id=world.new_id)
        self.kill_store = MemoryKillStore()
        self.broker = SimBroker(world, surfaces_s=0.8 * CONFIG.settle_after_s)
        self.broker.updated = self._tell_update
        self.broker.known = self._is_known
        self.broker.stopped_by = self.kill_store.standing
        self.broker.looked = self._looked
        self.tokens = MemoryTokens(world.clock)
        self.daemons: list[Daemon] = []
        self.delivered: list[tuple[int, str, int]] = []
        self.has_exits = world.happens(0.4)
        # An exit takes its time: what rests of it is priced again after five seconds.
        self.busy_s = world.random_s(4.0, 16.0) + (10.0 if self.has_exits else 0.0)
        self.people = [Person(play=self, name=name) for name in ("ann", "bob")]
        self.journal_line = JournalLine
        self._quiet_since_s: float | None = None
        self.line = Line
        self.intended_ns: dict[str, int] = {}
        """When each intent was asked for, by its tag and the clock that nobody sets."""
        self.ended_ns: dict[uuid.UUID, int] = {}
        """When each job ended, likewise."""
        self.wish = wish
        """Draws an exit."""
        self.other_hand = OtherHand(play=self, is_there=world.happens(0.6))
        self._hands: dict[uuid.UUID, Hands] = {}
        """What others had done when an intent was durable."""
        self._started = 0
        self.false_alarms: list[str] = []
        """What a desk was sure its books differ in, although the broker tells of true fills."""

    def broker_of(self, _: Account) -> SimBroker:
        """Return the broker of an account."""
        return self.broker

    def whose(self, _: str) -> dict[str, str]:
        """Return what an order of a key names, an account or a group."""
        return {"account": self.account}

    # --- the play ---------------------------------------------------------------------------

    async def through(self) -> None:
        """Play trouble, then peace."""
        world = self.world
        await self._log_in()
        self.start()
        if world.happens(0.3):
            world.met["standby"] += 1
            self.start()
        async with asyncio.TaskGroup() as going_on:
            people = [
                going_on.create_task(person.trade(world.chance.randint(1, 4)))
                for person in self.people
            ]
            nature = going_on.create_task(self._trouble())
            elsewhere = going_on.create_task(self.other_hand.trade())
            keeper = going_on.create_task(self._keep_running())
            await asyncio.sleep(self.busy_s + world.random_s(0.0, 8.0))
            nature.cancel()
            elsewhere.cancel()
            self.other_hand.is_there = False
            await self._make_peace()
            for person in people:
                await asyncio.wait([person])
            await self._settle()
            keeper.cancel()

    def end(self) -> None:
        """End every daemon."""
        for daemon in self.daemons:
            daemon.process.kill("end")
        self.world.kills.pop("end", None)

    def start(self) -> None:
        """Start another daemon."""
        self._started += 1
        self.daemons.append(Daemon(self, Process(self.world, self._started)))

    def some_daemon(self) -> Daemon | None:
        """Return the daemon a caller reaches: the one that is open, or another."""
        alive = [daemon for daemon in self.daemons if daemon.process.is_alive]
        is_open = [daemon for daemon in alive if daemon.desk.state is DeskState.OPEN]
        if is_open and not self.world.happens(0.1):
            return is_open[0]
        return self.world.chance.choice(alive) if alive else None

    # --- what goes wrong ----------------------------------------------------------------------

    async def _trouble(self) -> None:
        world = self.world
        # A few kinds per play: rare ends need the same trouble again and again, and each play with
        # a little of everything would hardly reach them.
        troubles = [self._doom, *world.chance.sample(self._troubles(), world.chance.randint(1, 4))]
        while True:
            await asyncio.sleep(world.chance.expovariate(1 / TROUBLE_S))
            trouble = world.chance.choice(troubles)
            world.met[f"trouble{trouble.__name__}"] += 1
            await trouble()

    def _troubles(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        return [
            self._doom,
            self._stop_in_order,
            self._lose_session,
            self._take_journal_away,
            self._end_token,
            self._stall,
            self._set_clock,
            self._shorten_books,
            self._reconnect_feed,
            self._throw_kill_switch,
        ]

    async def _doom(self) -> None:
        chance = self.world.chance
        self.world.doom = chance.choice(FATAL) if chance.random() < 0.7 else chance.randint(0, 30)

    async def _stop_in_order(self) -> None:
        daemon = self._open_daemon()
        if daemon is not None:
            self.world.tell(daemon.process.name, "is asked to stop")
            daemon.stop.set()

    async def _lose_session(self) -> None:
        daemon = self._open_daemon()
        if daemon is None:
            return
        world = self.world
        world.tell(daemon.process.name, "loses its session")
        daemon.journal.lose_writer(ACCOUNT, is_noticed=False)
        if world.happens(0.5):
            self.start()
        try:
            await asyncio.sleep(world.random_s(0.0, 3.0))
        finally:
            # Its heartbeat notices, whatever else goes on.
            if daemon.process.is_alive:
                daemon.journal.lose_writer(ACCOUNT)

    async def _take_journal_away(self) -> None:
        world = self.world
        world.is_journal_down = True
        world.tell("journal", "is away")
        try:
            await asyncio.sleep(world.random_s(0.1, 3.0))
        finally:
            world.is_journal_down = False
            world.tell("journal", "is back")

    async def _end_token(self) -> None:
        self.broker.is_token_refused = True
        self.world.tell("broker", "refuses the token")
        await asyncio.sleep(self.world.random_s(0.1, 4.0))
        await self._log_in()

    async def _shorten_books(self) -> None:
        self.world.tell("broker", "shows short books")
        self.broker.is_short = True
        try:
            await asyncio.sleep(self.world.random_s(1.0, 30.0))
        finally:
            self.broker.is_short = False

    async def _stall(self) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(loop, virtual_time.VirtualLoop):
            self.world.stalls_s = self.world.random_s(0.2, 3.0)
            # Between an intent and its first byte it matters most.
            self.world.stalls_at = self.world.chance.choice(("", "C3"))

    async def _set_clock(self) -> None:
        by_s = self.world.chance.choice((-40.0, -5.0, -1.0, 1.0, 5.0, 40.0))
        self.world.tell("world", f"sets the clock by {by_s:+.0f} s")
        self.world.clock.set_by(by_s)

    async def _reconnect_feed(self) -> None:
        for daemon in self.daemons:
            if daemon.process.is_alive:
                daemon.office.feed_came_back()

    async def _throw_kill_switch(self) -> None:
        chance = self.world.chance
        scope, level = KillScope(ScopeKind.ALL), chance.choice(list(KillLevel))
        self.world.tell("ann", f"throws a kill switch, {level}")
        switch = KillSwitch(
            switch_id=self.world.new_id(),
            scope=scope,
            level=level,
            why="",
            by_whom="ann",
            since_ns=self.world.clock.now_ns(),
        )
        self.kill_store.throw(switch)
        lasts_s = 30.0 if level in {KillLevel.BLOCK_NEW, KillLevel.REDUCE_ONLY} else 4.0
        await asyncio.sleep(self.world.random_s(0.0, lasts_s))
        await self._release_kill_switches()

    async def _release_kill_switches(self) -> None:
        """Release what stands, here and in the journal, as `KillSwitches.release` does."""
        for switch in self.kill_store.standing():
            self.world.tell("ann", "releases a kill switch")
            await self.journal.keep_kill_switch(switch)
            for place in (self.journal.shared.kill_switches, self.kill_store.switches):
                place[switch.switch_id] = replace(switch, released_ns=1, released_by="ann")

    def _open_daemon(self) -> Daemon | None:
        found = [each for each in self.daemons if each.process.is_alive and each.is_open]
        return found[0] if found else None

    async def _keep_running(self) -> None:
        """Start a daemon again some time after the last one ended, as a service manager does."""
        while True:
            if not any(daemon.process.is_alive for daemon in self.daemons):
                await asyncio.sleep(self.world.random_s(0.05, 2.0))
                self.start()
            await asyncio.sleep(0.1)

    # --- peace --------------------------------------------------------------------------------

    async def _make_peace(self) -> None:
        world = self.world
        world.tell("world", "peace")
        world.is_moody = self.broker.is_moody = False
        world.doom = None
        world.is_journal_down = False
        world.stalls_s = 0.0
        await self._release_kill_switches()
        await self._log_in()

    async def _settle(self) -> None:
        until_s = self.world.now_s() + PEACE_S_MAX
        while self.world.now_s() < until_s:
            await asyncio.sleep(QUIET_LOOK_S)
            is_quiet = self._has_ended() and self._is_delivered() and not self._doubted()
            if self._stays_quiet(is_quiet and not unsettled(self.records())):
                return

    def _stays_quiet(self, is_quiet: bool) -> bool:  # noqa: FBT001 - as it is asked
        """Return whether all was quiet for so long that every desk has compared its sums since.

        What a process that was losing its account committed last, its successor learns by that.
        """
        now_s = self.world.now_s()
        if not is_quiet:
            self._quiet_since_s = None
        elif self._quiet_since_s is None:
            self._quiet_since_s = now_s
        since_s = self._quiet_since_s
        return since_s is not None and now_s - since_s > COMPARED_S

    def _has_ended(self) -> bool:
        return not any(task.state in UNRESOLVED for task in self.journal.tasks.values())

    def _doubted(self) -> bool:
        """Return whether a daemon counts what the journal may yet have taken."""
        return any(each.is_open and each.desk.exposure.doubts for each in self.daemons)

    def _is_delivered(self) -> bool:
        last = len(self.journal.events[ACCOUNT])
        return not last or (bool(self.delivered) and self.delivered[-1][0] == last)

    # --- news ---------------------------------------------------------------------------------

    async def _log_in(self) -> None:
        self.broker.is_token_refused = False
        now_ns = self.world.clock.now_ns()
        token = f"token-{now_ns}"
        await self.tokens.put(
            AccessToken(account=ACCOUNT, user_id="AB1234", value=token, issued_at_ns=now_ns)
        )

    def _tell_update(self, row: BrokerOrder) -> None:
        """Tell the daemons' feeds of an order: now, later, twice, or never."""
        world = self.world
        for daemon in self.daemons:
            if not daemon.process.is_alive:
                continue
            if not world.is_moody:
                daemon.office.take_update(row)
                continue
            for _ in range(world.chance.choice((0, 1, 1, 1, 2))):
                if world.happens(0.6):
                    daemon.office.take_update(row)
                else:
                    self._tell_later(daemon, row, world.random_s(0.0, 5.0))

    def _tell_later(self, daemon: Daemon, row: BrokerOrder, delay_s: float) -> None:
        async def tell() -> None:
            await asyncio.sleep(delay_s)
            if daemon.process.is_alive:
                daemon.office.take_update(row)

        self.world.apart(tell)

    def story(self) -> list[str]:
        """Return what happened, in order, with what the journal wrote down."""
        told = list(self.world.story)
        for event in self.journal.events[ACCOUNT]:
            task = self.journal.tasks.get(event.task_id)
            asked = task.request_id if task else event.client_order_id
            what = f"{event.account_seq:>3} {asked} {event.event}"
            at_s = (event.at_ns - NOON_NS) / NS_PER_S
            told.append((at_s, "journal", f"{what} -> {event.state} {_more(event)}"))
        return [f"{at:9.3f} {who:<10} {what}" for at, who, what in sorted(told)]

    def is_of_an_exit(self, task: OrderTask) -> bool:
        """Return whether an instruction is part of an exit."""
        job = self.journal.tasks.get(task.job_id) if task.job_id else None
        return job is not None and job.kind is TaskKind.EXIT

    def note_intent(self, intended: OrderTask) -> None:
        """Note what others have done until an intent was durable; they may do more right then."""
        self.other_hand.hears_of(intended)
        self._hands[intended.task_id] = self.broker_of(intended.account).hands

    def _looked(self, kind: TaskKind, what: str) -> Looked:
        """Return what the sender of a request can know of what others did."""
        for task in self.journal.tasks.values():
            if task.kind is not kind or task.state is not TaskState.SENDING:
                continue
            target = self.journal.tasks.get(task.target_task_id) if task.target_task_id else None
            if what in {task.tag, target.broker_order_id if target else None}:
                hands = self._hands.get(task.task_id, Hands(elsewhere=-1))
                return Looked(is_exit=self.is_of_an_exit(task), hands=hands)
        return Looked()

    def _is_known(self, order_id: str) -> bool:
        return any(task.broker_order_id == order_id for task in self.journal.tasks.values())

    # --- the records ----------------------------------------------------------------------------

    def records(self, account: Account = ACCOUNT) -> Records:
        """Return everything that was written down of an account so far."""
        journal, broker = self.journal, self.broker_of(account)
        events = journal.events[account]
        intents = {
            (str(event.task_id), event.data["attempt"]): event.account_seq
            for event in events
            if event.event == "intent_recorded"
        }
        return Records(
            told=[each for person in self.people for each in person.told],
            tasks=[task_record(task) for task in journal.tasks.values() if task.account == account],
            attempts=[
                self._attempt(task, intents) for task in journal.attempts if task.account == account
            ],
            events=[event_record(event) for event in events],
            posts=list(broker.posts),
            orders={order_id: at_broker(row) for order_id, row in broker.book.items() if row.tags},
            holdings=broker.holdings,
            ended_ns={str(task_id): at_ns for task_id, at_ns in self.ended_ns.items()},
            without_tag={
                (row.tradingsymbol, row.transaction_type, row.quantity)
                for row in broker.book.values()
                if not row.tags
            },
            delivered={"sink": self.delivered_of(account)},
            doubts_allowed=broker.nulled_tags,
            cancels_all=any(
                each.level is KillLevel.CANCEL_ALL for each in self.kill_store.switches.values()
            )
            or any("cancel_resting" in task.body for task in journal.tasks.values()),
        )

    def deliver(self, _: Account, told: Sequence[tuple[int, str, int]]) -> None:
        """Take events of an account as its subscriber does."""
        self.delivered += told

    def delivered_of(self, _: Account) -> list[tuple[int, str, int]]:
        """Return what the sink got of an account."""
        return list(self.delivered)

    def _attempt(self, task: OrderTask, intents: Mapping[tuple[str, object], int]) -> Attempt:
        intended_ns = self.intended_ns.get(task.tag or "", 0)
        return Attempt(
            task_id=str(task.task_id),
            attempt=task.attempt,
            tag=task.tag or "",
            writer_epoch=task.writer_epoch or 0,
            intent_at_ns=intended_ns,
            send_not_after_ns=intended_ns + int(self.config.send_window_s * NS_PER_S),
            account_seq=intents[str(task.task_id), task.attempt],
            body=body_text(task.body),
        )

    def permuted(self) -> list[str]:
        """I7: merged in any order and number, what the broker showed of an order is the same."""
        found = []
        for intent in self.journal.attempts:
            shown = self.broker_of(intent.account).shown.get(intent.tag or "", [])
            if intent.kind is not TaskKind.PLACE or not shown:
                continue
            rows = [*shown, *self.world.chance.choices(shown, k=3)]
            self.world.chance.shuffle(rows)
            in_order, any_order = _merged(intent, shown), _merged(intent, rows)
            if in_order != any_order:
                found.append(f"I7: {intent.request_id} is {in_order}, and {any_order} shuffled")
        return found

    def unexplained(self) -> list[str]:
        """I9: what the events of a task make of it is what the journal holds of it."""
        found = []
        events = [event for log in self.journal.events.values() for event in log]
        for task_id, task in self.journal.tasks.items():
            try:
                theirs = [event for event in events if event.task_id == task_id]
                replayed = replay(sorted(theirs, key=lambda event: event.version))
            except EventRefused as error:
                found.append(f"I9: {task.request_id}: {error}")
                continue
            found += [
                f"I9: {task.request_id}: {fault.field} is {fault.found}, by its events {fault.told}"
                for fault in differences(replayed, task, replayed.attempts)
            ]
        return found

    def misreserved(self) -> list[str]:
        """I13: what a daemon holds for open, kept step by step, is what the journal makes of it."""
        found = []
        for account in self.accounts:
            theirs = (task for task in self.journal.tasks.values() if task.account == account)
            anew = Exposure.of_tasks(theirs).by_key()
            found += [
                f"I13: open orders are held for {dict(kept)}, by the journal they are {dict(anew)}"
                for daemon in self.daemons
                if daemon.process.is_alive and daemon.desks[account].state is DeskState.OPEN
                for kept in [daemon.desks[account].exposure.by_key()]
                if kept != anew
            ]
        return found


class Daemon:
    """The order half of one process, built as the assembly builds it."""

    def __init__(self, play: Play, process: Process) -> None:
        self.process = process
        self.play = play
        self.stop = asyncio.Event()
        world = play.world
        self.journal = play.journal_line(process, play.journal, play.intended_ns)
        self.journal.ended_ns, self.journal.on_intent = play.ended_ns, play.note_intent
        chance = random.Random(world.chance.getrandbits(32))  # noqa: S311 - jitter
        surroundings = Surroundings(clock=world.clock, chance=chance, telemetry=Telemetry())
        switches = KillSwitches(play.kill_store)
        self.desks: dict[Account, AccountDesk] = {}
        gateways, cancel_all = {}, {}
        for account in play.accounts:
            gateway = gateways[account] = play.line(
                process, play.broker_of(account), request_s=play.config.request_s_max
            )
            limits = OrderLimits(account, world.clock, cooldown_s=1.0)
            executor = Executor(
                journal=self.journal,
                gateway=gateway,
                breakers=Breakers(
                    account,
                    clock=world.clock,
                    rules={BreakerName.ORDERS: BreakerRules(open_s=2.0)},
                ),
                limits=limits,
                halts=Halts(account, clock=world.clock),
                switches=switches,
                config=play.config,
                surroundings=surroundings,
                reach=self._reach,
            )
            desk = self.desks[account] = AccountDesk(
                account,
                journal=self.journal,
                gateway=gateway,
                executor=executor,
                sinks={"kept": self},
                config=play.config,
                surroundings=surroundings,
                reach=self._reach,
                sources=RiskSources(contracts=lambda: CONTRACTS, prices=Quotes(world)),
                new_id=world.new_id,
            )
            desk.audit.on_change = partial(self._differs, executor, account)
            cancel_all[account] = CancelAll(
                account,
                gateway=gateway,
                switches=switches,
                pacer=limits.pacer,
                config=play.config,
                clock=world.clock,
                unwanted=desk.exits.unwanted,
            )
        self.desk = self.desks[ACCOUNT]
        self.front = FrontDesk(
            self.desks,
            self.journal,
            play.config,
            world.clock,
            switches=switches,
            new_id=world.new_id,
            contracts=lambda: CONTRACTS,
            groups=play.groups,
        )
        self.office = OrderOffice(
            self.front,
            journal=self.journal,
            gateways=gateways,
            tokens=TokenWatch(play.accounts, play.tokens, given={}, clock=world.clock),
            events=self,
            notices=Notices(self, surroundings),
            switches=switches,
            cancel_all=cancel_all,
            surroundings=surroundings,
        )
        for account in play.accounts:
            lost = partial(self.journal.lose_writer, account, is_noticed=False)
            process.on_death.append(lost)
        process.begin(self._run)

    @property
    def is_open(self) -> bool:
        return self.desk.state is DeskState.OPEN

    async def _run(self) -> None:
        await self.office.run(self.stop)
        self.process.kill("its own end")

    def _differs(
        self,
        executor: Executor,
        account: Account,
        each: Difference,
        begins: bool,  # noqa: FBT001 - as it is called
    ) -> None:
        # Who has lost the account unnoticed cannot know what its successor sends, and takes a book
        # that lacks that for a whole one.
        newest = self.play.journal.shared.epochs[account]
        if begins and executor.writer_epoch >= newest:
            told = f"I5: a false alarm of {each.what} {each.name}, {each.ours} and {each.theirs}"
            self.play.false_alarms.append(told)

    def _reach(self, point: str) -> None:
        self.process.step(point)
        loop = asyncio.get_running_loop()
        world = self.play.world
        is_stalled = world.stalls_s > 0.0 and world.stalls_at in {"", point}
        if is_stalled and isinstance(loop, virtual_time.VirtualLoop):
            world.tell(self.process.name, f"stalls at {point}")
            loop.stall(world.stalls_s)
            world.stalls_s = 0.0

    # --- the sink of events, and the board of notices ---------------------------------------------

    async def publish(self, account: Account, events: Sequence[OrderEvent]) -> None:
        """Take events as a subscriber does."""
        self.process.step("events about to be delivered")
        self.play.deliver(
            account, [(event.account_seq, str(event.task_id), event.version) for event in events]
        )
        self.process.step("events delivered")

    async def post(self, notice: Mapping[str, object]) -> None:
        """Take a notice."""

    async def close(self) -> None:
        """Give nothing back."""


def task_record(task: OrderTask) -> Task:
    return Task(
        task_id=str(task.task_id),
        kind=task.kind.value,
        principal=task.principal,
        request_id=task.request_id,
        body=body_text(task.body),
        state=task.state,
        version=task.version,
        broker_order_id=task.broker_order_id,
        filled_quantity=task.filled_quantity,
        average_price=task.average_price,
        target_task_id=str(task.target_task_id or ""),
        job_id=str(task.job_id or ""),
        leg=task.leg or 0,
        hop=task.hop,
        form=task.body,
        code=task.reason_code or "",
        positions=tuple(":".join(key) for key in legs_of(task).values())
        if task.kind is TaskKind.EXIT
        else (),
    )


def event_record(event: OrderEvent) -> Event:
    filled = event.data.get("filled_quantity")
    return Event(
        account_seq=event.account_seq,
        task_id=str(event.task_id),
        version=event.version,
        state=TaskState(event.state),
        event=event.event,
        filled_quantity=filled if isinstance(filled, int) else None,
        outcome=str(event.data.get("outcome", "")),
    )


def _more(event: OrderEvent) -> str:
    names = ("tag", "reason_code", "broker_order_id", "broker_status", "filled_quantity")
    return " ".join(f"{name}={event.data[name]}" for name in names if name in event.data)


def _merged(task: OrderTask, rows: Sequence[BrokerOrder]) -> tuple[object, ...]:
    for row in rows:
        update = merge(task, row)
        if update is not None:
            told = {name: getattr(update, name) for name in ("state", *MERGED)}
            task = replace(task, **{k: v for k, v in told.items() if v is not None})
    return task.state, task.filled_quantity, task.average_price


def at_broker(row: BrokerOrder) -> AtBroker:
    (tag,) = row.tags
    return AtBroker(
        order_id=row.order_id,
        tag=tag,
        status=row.status,
        filled_quantity=row.filled_quantity,
        value_inr=row.average_price * row.filled_quantity,
    )


__all__ = ["NOON_NS", "Outcome", "Play", "play"]
