"""An exit closes what is held, whatever the broker does; it ends flat, or says what it needs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import virtual_time
from held_scene import KEY, SELL, Held
from order_scene import BUY, broker_order, cancelling
from test_orders_kill_switch import switch
from test_orders_slices import contracts

from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.exit import Exit, body_of
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.kill_switch import KillLevel
from ticker_service.domain.order import OrderTask, TaskKind
from ticker_service.domain.order_state import TERMINAL, TaskState
from ticker_service.domain.portfolio import BrokerPosition
from ticker_service.errors import JournalUnavailable, OrderRefused
from ticker_service.orders.risk_fetch import RiskSources
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ticker_service.domain.contracts import Contracts
    from ticker_service.domain.order import NewTask
    from ticker_service.testing import Sent

S = TaskState
ONE = Exit(exchange=KEY.exchange, tradingsymbol=KEY.tradingsymbol, product=KEY.product)
SYMBOL = f"symbol:{KEY.exchange}:{KEY.tradingsymbol}"
SILENCE = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
ENDED = {"COMPLETE", "CANCELLED", "REJECTED"}


class Market(Held):
    """A market that fills as it is told, and notes when the position changed its sign."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.fills: list[int | None] = []
        """How much of each order that comes is filled at once; None for all, the default."""
        self.flipped = False
        self.broker.on_sent = self.came

    async def came(self, sent: Sent) -> None:
        if sent.kind is TaskKind.CANCEL or not self.broker.book:
            return
        order_id = sent.what
        if sent.kind is TaskKind.PLACE:
            found = [row for row in self.broker.book.values() if sent.what in row.tags]
            if not found:
                return
            order_id = found[0].order_id
        # Kite makes a LIMIT at the end of the band of it, and leaves its rest open.
        self.broker.change(order_id, order_type="LIMIT", price=Decimal(99))
        self.trade(order_id, self.fills.pop(0) if self.fills else None)

    def trade(self, order_id: str, quantity: int | None) -> None:
        row = self.broker.book[order_id]
        left = row.quantity - row.filled_quantity
        size = left if quantity is None else min(quantity, left)
        if row.status in ENDED or not size:
            return
        filled = row.filled_quantity + size
        status = "COMPLETE" if filled == row.quantity else "OPEN"
        self.fill(order_id, filled, status)
        self.desk.take_update(self.broker.book[order_id])
        self.flipped = self.flipped or self.held * self.overnight < 0

    def squared_off(self, quantity: int, *, is_told: bool = True) -> None:
        """Let somebody close so much in another app, or open as much as it is below 0."""
        order_id = f"app-{len(self.broker.book)}"
        closes = (self.held or self.overnight) * quantity > 0
        self.broker.book[order_id] = broker_order(
            order_id=order_id,
            transaction_type="SELL" if closes else "BUY",
            quantity=abs(quantity),
            filled_quantity=abs(quantity),
            average_price=Decimal(100),
            status="COMPLETE",
        )
        self.flipped = self.flipped or self.held * self.overnight < 0
        if is_told:
            self.desk.take_update(self.broker.book[order_id])

    @property
    def held(self) -> int:
        return self.overnight + self.traded()

    def traded(self, tradingsymbol: str = KEY.tradingsymbol) -> int:
        return sum(
            row.filled_quantity if row.transaction_type == "BUY" else -row.filled_quantity
            for row in self.broker.book.values()
            if row.tradingsymbol == tradingsymbol
        )

    async def exit(self, wanted: Exit = ONE) -> OrderTask:
        return await self.submit(TaskKind.EXIT, body_of(wanted))

    async def ends(self, job: OrderTask) -> OrderTask:
        await self.until(lambda: self.now(job).state in TERMINAL, within_s=2_000.0)
        return self.now(job)

    def orders(self, job: OrderTask) -> list[OrderTask]:
        return [
            each
            for each in self.journal.tasks.values()
            if each.job_id == job.task_id and each.kind is TaskKind.PLACE
        ]

    def sent(self, kind: TaskKind) -> int:
        return sum(each.kind is kind for each in self.broker.sent)


def play(scenario: Callable[[Market], Awaitable[None]], **fields: Any) -> None:
    async def playing() -> None:
        scene = Market()
        for name, value in fields.items():
            setattr(scene, name, value)
        async with scene.opened():
            await scenario(scene)
        assert not scene.flipped

    virtual_time.run(playing())


@pytest.mark.parametrize("overnight", [75, -75])
def test_it_ends_when_the_broker_says_flat(overnight: int) -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        (order,) = scene.orders(job)
        assert order.body["order_type"] == "MARKET"
        assert order.body["market_protection"] == "-1"
        report: Any = (job.facts or {})["report"]
        assert report["1"]["filled"] == 75
        assert report["1"]["is_flat"]

    play(scenario, overnight=overnight)


def test_nothing_held_is_flat() -> None:
    async def scenario(scene: Market) -> None:
        assert (await scene.ends(await scene.exit())).state is S.DONE
        assert not scene.broker.sent

    play(scenario, overnight=0)


def test_what_the_protection_left_open_is_priced_again_until_it_is_filled() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert (scene.sent(TaskKind.PLACE), scene.sent(TaskKind.MODIFY)) == (1, 2)

    play(scenario, fills=[30, 0, None])


def test_after_25_changes_it_is_cancelled_and_sent_anew() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert (scene.sent(TaskKind.PLACE), scene.sent(TaskKind.MODIFY)) == (2, 25)

    play(scenario, fills=[30, *[0] * 25])


def test_a_market_that_moves_away_ends_it_in_time_with_the_evidence_and_nothing_open() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.ends(await scene.exit(Exit(within_s=60)))
        assert (job.state, job.reason_code) == (S.ESCALATED, "EXIT_TIMED_OUT")
        assert "NFO:NIFTY26NOV25000CE:NRML" in (job.reason or "")
        report: Any = (job.facts or {})["report"]
        assert (report["1"]["held"], report["1"]["filled"]) == (45, 30)
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, fills=[30, *[0] * 100])


def test_an_order_in_doubt_is_waited_for_and_nothing_is_sent_beside_it() -> None:
    async def scenario(scene: Market) -> None:
        scene.broker.answers.append(Answer(reply=SILENCE))
        job = await scene.exit()
        await scene.until(
            lambda: any(S.UNKNOWN in scene.journal.states(o.task_id) for o in scene.orders(job))
        )
        job = await scene.ends(job)
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.sent(TaskKind.PLACE) == 1

    play(scenario, fills=[0, None])


def test_one_that_never_came_is_sent_again_once_that_is_proven() -> None:
    async def scenario(scene: Market) -> None:
        scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=False))
        began = scene.clock.monotonic_ns()
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.clock.monotonic_ns() - began > 90 * 10**9
        assert scene.sent(TaskKind.PLACE) == 2

    play(scenario)


def test_a_broker_that_refuses_ends_it_with_what_it_said() -> None:
    async def scenario(scene: Market) -> None:
        no = refusal(400, "MarginException", "insufficient funds")
        scene.broker.answers.extend([Answer(reply=no, takes_effect=False)] * 9)
        job = await scene.ends(await scene.exit())
        assert (job.state, job.reason_code) == (S.ESCALATED, "REFUSED")
        assert "insufficient funds" in (job.reason or "")
        assert scene.sent(TaskKind.PLACE) == 3

    play(scenario)


def test_an_order_of_somebody_s_that_closes_it_is_not_doubled() -> None:
    async def scenario(scene: Market) -> None:
        await scene.reaches(await scene.place(SELL), S.ACKED)
        job = await scene.exit()
        await scene.until(lambda: scene.held == 30)
        await asyncio.sleep(30.0)
        assert scene.now(job).state is S.RUNNING
        scene.trade(next(iter(scene.broker.book)), None)
        assert (await scene.ends(job)).state is S.DONE

    play(scenario, fills=[0])


def test_what_rests_on_the_position_is_cancelled_if_that_was_asked_and_nothing_else_is() -> None:
    async def scenario(scene: Market) -> None:
        scene.broker.book["web"] = broker_order(order_id="web", transaction_type="SELL")
        scene.broker.book["opens"] = broker_order(order_id="opens")
        scene.broker.book["else"] = broker_order(order_id="else", tradingsymbol="OTHER")
        async with cancelling(scene) as work:
            work.unwanted = scene.desk.exits.unwanted
            wanted = Exit(
                exchange=KEY.exchange, tradingsymbol=KEY.tradingsymbol, cancel_resting=True
            )
            job = await scene.ends(await scene.exit(wanted))
        assert (job.state, scene.held) == (S.DONE, 0)
        statuses = {name: scene.broker.book[name].status for name in ("web", "opens", "else")}
        assert statuses == {"web": "CANCELLED", "opens": "CANCELLED", "else": "OPEN"}

    play(scenario)


def test_it_does_not_end_while_an_order_to_be_cancelled_may_still_surface() -> None:
    async def scenario(scene: Market) -> None:
        scene.broker.answers.append(Answer(reply=SILENCE))
        scene.broker.hidden.add(f"{1:015d}")
        opening = await scene.reaches(await scene.place(), S.UNKNOWN)
        async with cancelling(scene) as work:
            work.unwanted = scene.desk.exits.unwanted
            job = await scene.exit(Exit(cancel_resting=True))
            await scene.until(lambda: scene.held == 0)
            await asyncio.sleep(20.0)
            assert scene.now(job).state is S.RUNNING
            scene.broker.hidden.clear()
            job = await scene.ends(job)
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.now(opening).state is S.CANCELLED

    play(scenario, fills=[0, None])


def test_under_reduce_only_it_goes_on_and_under_halt_new_it_does_not() -> None:
    async def scenario(scene: Market) -> None:
        scene.kill_store.throw(switch(level=KillLevel.REDUCE_ONLY))
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        scene.kill_store.throw(switch(level=KillLevel.HALT_NEW))
        with pytest.raises(OrderRefused, match="KILL_SWITCH"):
            await scene.exit()

    play(scenario)


def test_its_caller_ends_it_and_is_told_what_is_still_held() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        await scene.cancel(job)
        job = await scene.ends(job)
        assert (job.state, job.reason_code) == (S.ESCALATED, "CANCELLED_BY_CALLER")
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, fills=[30, *[0] * 100])


def test_it_is_stopped_while_a_login_is_awaited_and_what_rests_is_cancelled_after_it() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        scene.broker.is_token_refused = True
        scene.desk.token_has_ended()
        cancel = await scene.reaches(await scene.cancel(job), S.CANCELLED_LOCAL)
        assert cancel.reason_code == "JOB_STOPPED"
        # Longer than an exit waits for positions that cannot be read.
        await asyncio.sleep(3_600.0)
        assert scene.now(job).state is S.STOPPING
        scene.broker.is_token_refused = False
        scene.desk.has_new_token()
        job = await scene.ends(job)
        assert (job.state, job.reason_code) == (S.ESCALATED, "CANCELLED_BY_CALLER")
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, fills=[30, *[0] * 100])


def test_the_next_process_goes_on_with_it() -> None:
    async def playing() -> None:
        scene = Market()
        scene.fills = [30, 0, 0]
        async with scene.opened():
            job = await scene.exit()
            await scene.until(lambda: scene.held == 45)
        scene.renew()
        async with scene.opened():
            job = await scene.ends(job)
            assert (job.state, scene.held) == (S.DONE, 0)
            assert scene.sent(TaskKind.PLACE) == 1
        assert not scene.flipped

    virtual_time.run(playing())


def test_what_rests_is_cancelled_once_another_hand_has_closed_the_position() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        await asyncio.sleep(1.0)
        scene.squared_off(45)
        await asyncio.sleep(4.0)
        (order,) = scene.orders(job)
        assert scene.broker.book[order.broker_order_id or ""].status == "CANCELLED"
        assert (await scene.ends(job)).state is S.DONE
        assert scene.held == 0
        assert not scene.sent(TaskKind.MODIFY)

    play(scenario, fills=[30, *[0] * 50])


def test_what_rests_is_sent_anew_for_what_another_hand_has_left_of_the_position() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        scene.squared_off(40)
        job = await scene.ends(job)
        assert (job.state, scene.held) == (S.DONE, 0)
        assert [order.body["quantity"] for order in scene.orders(job)] == ["75", "5"]

    play(scenario, fills=[30, 0, None])


@pytest.mark.parametrize("is_told", [True, False])
def test_the_last_look_sees_what_another_hand_closed_while_an_order_waited(
    *, is_told: bool
) -> None:
    async def playing() -> None:
        scene = Market(limit_changes={"orders_per_second": 3})
        async with scene.opened():
            await asyncio.sleep(10.0)
            job = await scene.exit()
            scene.fills = [0, 0]
            for _ in range(2):
                await scene.place(dataclasses.replace(BUY, tradingsymbol="OTHER"))
            await scene.until(lambda: bool(scene.orders(job)))
            assert scene.held == 75
            scene.squared_off(75, is_told=is_told)
            job = await scene.ends(job)
            assert (job.state, scene.held) == (S.DONE, 0)
        assert not scene.flipped

    virtual_time.run(playing())


@pytest.mark.parametrize(
    "misnamed",
    [{"tradingsymbol": KEY.tradingsymbol + "X"}, {"product": "MIS"}],
    ids=["symbol", "product"],
)
def test_a_name_that_nothing_was_held_under_does_not_end_as_if_flat(misnamed: Any) -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.ends(await scene.exit(dataclasses.replace(ONE, **misnamed)))
        assert (job.state, job.reason_code) == (S.ESCALATED, "NOTHING_HELD")
        assert "held: NFO:NIFTY26NOV25000CE:NRML" in (job.reason or "")

    play(scenario)


def test_its_orders_are_cut_to_what_the_risk_limits_let_through() -> None:
    async def playing() -> None:
        scene = Market(risk={"order_quantity_max": 50})
        async with scene.opened():
            job = await scene.ends(await scene.exit())
            assert (job.state, scene.held) == (S.DONE, 0)
            assert max(int(order.body["quantity"]) for order in scene.orders(job)) <= 50

    virtual_time.run(playing())


def test_instruments_that_are_missing_for_a_while_do_not_end_it() -> None:
    async def playing() -> None:
        scene = Market(risk={"order_lots_max": 100})
        known: list[Contracts] = []
        scene.sources = RiskSources(contracts=lambda: known[0] if known else None)
        scene.renew()
        async with scene.opened():
            job = await scene.exit()
            await asyncio.sleep(5.0)
            assert not scene.orders(job)
            assert scene.now(job).state is S.RUNNING
            known.append(contracts(75))
            job = await scene.ends(job)
            assert (job.state, scene.held) == (S.DONE, 0)

    virtual_time.run(playing())


def test_an_order_whose_commit_came_late_is_its_own_and_no_conflict() -> None:
    """What is held has changed meanwhile, so that the next look plans another size under its key."""

    async def scenario(scene: Market) -> None:
        take, late = scene.desk.jobs._take, []

        async def takes(new: NewTask) -> object:
            if new.kind is TaskKind.PLACE and not late:
                late.append(new)
                scene.squared_off(30)
                raise JournalUnavailable("no answer in time")
            if len(late) == 1:
                late.append(await take(late[0]))
            return await take(new)

        scene.desk.jobs._take = takes
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert len(late) == 2
        assert [order.body["quantity"] for order in scene.orders(job)] == ["75", "45"]

    play(scenario)


def test_what_it_says_is_written_as_everything_else_is() -> None:
    """The daemon sets its log up after its modules were imported."""
    said = []

    def keep(_: object, level: str, event: structlog.typing.EventDict) -> str:
        said.append((level, event["event"]))
        raise structlog.DropEvent

    async def scenario(scene: Market) -> None:
        await scene.ends(await scene.exit(Exit(within_s=10)))

    before = structlog.get_config()
    structlog.configure(processors=[keep])
    try:
        play(scenario, fills=[0] * 20)
    finally:
        structlog.configure(**before)
    assert {("warning", "exit_stops"), ("error", "exit_escalated")} <= set(said)


def test_a_lane_full_of_orders_keeps_no_exit_out() -> None:
    async def playing() -> None:
        scene = Market(config=OrdersConfig(waiting_max=20), limit_changes={"orders_per_second": 3})
        async with scene.opened():
            scene.fills = [0] * 100
            other = dataclasses.replace(BUY, tradingsymbol="OTHER")
            with contextlib.suppress(OrderRefused):
                while True:
                    await scene.place(other)
            with pytest.raises(OrderRefused, match="TOO_MANY_WAITING"):
                await scene.place(other)
            job = await scene.exit()
            await scene.until(lambda: bool(scene.orders(job)), within_s=3.0)

    virtual_time.run(playing())


def test_it_closes_in_time_against_a_caller_who_sends_above_the_rate() -> None:
    async def playing() -> None:
        scene = Market()
        other = dataclasses.replace(BUY, tradingsymbol="OTHER")

        async def runs_away() -> None:
            while True:
                with contextlib.suppress(OrderRefused):
                    await scene.place(other)
                await asyncio.sleep(1 / 15)

        async with scene.opened(), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(runs_away())
            await asyncio.sleep(35.0)
            began_ns = scene.clock.monotonic_ns()
            job = await scene.exit()
            await scene.until(
                lambda: any(order.state is S.FILLED for order in map(scene.now, scene.orders(job)))
            )
            assert scene.clock.monotonic_ns() - began_ns < 10 * NS_PER_S
            running.cancel()

    virtual_time.run(playing())


def test_a_halt_ends_it_at_once_under_its_own_name() -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        began_ns = scene.clock.monotonic_ns()
        scene.halts.begin(HaltCode.ORPHAN_ORDER, "somebody has our tag")
        job = await scene.ends(job)
        assert scene.clock.monotonic_ns() - began_ns < 10 * NS_PER_S
        assert (job.state, job.reason_code) == (S.ESCALATED, "ACCOUNT_HALTED")
        assert "somebody has our tag" in (job.reason or "")
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, fills=[30, *[0] * 20])


@pytest.mark.parametrize("level", [KillLevel.HALT_NEW, KillLevel.CANCEL_ALL])
@pytest.mark.parametrize("scope", ["all", "account:MAIN", "group:ours", SYMBOL])
def test_a_kill_switch_ends_it_at_once_and_is_named(scope: str, level: KillLevel) -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        began_ns = scene.clock.monotonic_ns()
        scene.kill_store.throw(switch(scope, level))
        job = await scene.ends(job)
        assert scene.clock.monotonic_ns() - began_ns < 10 * NS_PER_S
        assert (job.state, job.reason_code) == (S.ESCALATED, "KILL_SWITCH")
        assert f"{level} on {scope} by operator (the model is mad)" in (job.reason or "")
        assert {row.status for row in scene.broker.book.values()} == {"CANCELLED"}

    play(scenario, fills=[30, *[0] * 20])


@pytest.mark.parametrize(
    ("scope", "level"),
    [
        ("all", KillLevel.REDUCE_ONLY),
        (SYMBOL, KillLevel.REDUCE_ONLY),
        ("account:ELSE", KillLevel.CANCEL_ALL),
        ("symbol:NFO:OTHER", KillLevel.CANCEL_ALL),
    ],
)
def test_a_switch_that_lets_it_reduce_or_is_not_about_it_does_not_end_it(
    scope: str, level: KillLevel
) -> None:
    async def scenario(scene: Market) -> None:
        job = await scene.exit()
        await scene.until(lambda: scene.held == 45)
        scene.kill_store.throw(switch(scope, level))
        assert ((await scene.ends(job)).state, scene.held) == (S.DONE, 0)

    play(scenario, fills=[30, 0, 0, None])


@pytest.mark.parametrize("is_unreadable", [False, True])
def test_a_switch_on_one_symbol_stops_its_position_alone(*, is_unreadable: bool) -> None:
    other = KEY._replace(tradingsymbol="OTHER")

    async def scenario(scene: Market) -> None:
        told = scene.broker.positions

        async def both() -> list[BrokerPosition]:
            quantity = 50 + scene.traded("OTHER")
            more = BrokerPosition(key=other, quantity=quantity, overnight_quantity=50)
            return [*await told(), more]

        scene.broker.positions = both  # type: ignore[method-assign]
        job = await scene.exit(Exit())
        await scene.until(lambda: scene.sent(TaskKind.PLACE) == 2)
        await asyncio.sleep(1.0)
        scene.broker.is_down = is_unreadable
        scene.kill_store.throw(switch(SYMBOL))
        await asyncio.sleep(3.0)
        assert {row.tradingsymbol: row.status for row in scene.broker.book.values()} == {
            KEY.tradingsymbol: "CANCELLED",
            "OTHER": "OPEN",
        }
        scene.broker.is_down = False
        scene.kill_store.switches.clear()
        job = await scene.ends(job)
        assert (job.state, job.reason_code) == (S.ESCALATED, "KILL_SWITCH")
        assert (scene.held, 50 + scene.traded("OTHER")) == (75, 0)
        assert "not flat: NFO:NIFTY26NOV25000CE:NRML" in (job.reason or "")

    play(scenario, fills=[0, 0, None])


def test_what_is_less_than_a_lot_ends_it_at_once_and_is_told() -> None:
    async def playing() -> None:
        scene = Market(sources=RiskSources(contracts=lambda: contracts(75)))
        scene.overnight = 100
        async with scene.opened():
            began_ns = scene.clock.monotonic_ns()
            job = await scene.ends(await scene.exit())
            assert scene.clock.monotonic_ns() - began_ns < 10 * NS_PER_S
            assert (job.state, job.reason_code) == (S.ESCALATED, "LESS_THAN_A_LOT")
            assert "25 is left of a lot of 75" in (job.reason or "")
            assert scene.held == 25

    virtual_time.run(playing())


@contextlib.asynccontextmanager
async def weather(scene: Market, chance: random.Random) -> AsyncIterator[None]:
    """Fill orders by chance, and have the broker be down now and then."""

    async def blow() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.1, 6.0))
            for order_id, row in list(scene.broker.book.items()):
                if row.status in ENDED or chance.random() < 0.6:
                    continue
                scene.trade(order_id, chance.choice([0, 1, 10, None]))
            scene.broker.is_down = chance.random() < 0.1

    async with asyncio.TaskGroup() as tasks:
        blowing = tasks.create_task(blow())
        yield
        blowing.cancel()


def moods(chance: random.Random) -> list[Answer]:
    no = refusal(400, "InputException", "invalid")
    odd = refusal(502, "DataException")
    return [
        chance.choice(
            [
                *[Answer()] * 4,
                Answer(reply=no, takes_effect=False),
                Answer(reply=odd),
                Answer(reply=SILENCE),
                Answer(reply=SILENCE, takes_effect=False),
                Answer(reply=refusal(429, "NetworkException"), takes_effect=False),
            ]
        )
        for _ in range(40)
    ]


@pytest.mark.parametrize("block", range(6))
def test_whatever_happens_it_ends_flat_or_with_the_evidence_and_never_flips(block: int) -> None:
    for seed in range(block * 12, block * 12 + 12):
        chance = random.Random(seed)  # noqa: S311 - a play
        fills: list[int | None] = [chance.choice([0, 0, 5, 30, None]) for _ in range(60)]
        answers = moods(chance)

        async def scenario(
            scene: Market, answers: list[Answer] = answers, chance: random.Random = chance
        ) -> None:
            scene.broker.answers.extend(answers)
            async with weather(scene, chance):
                job = await scene.ends(await scene.exit(Exit(within_s=240)))
            report: Any = (job.facts or {}).get("report", {})
            if job.state is S.DONE:
                assert scene.held == 0
            else:
                assert job.reason_code
                assert report["1"]["held"] == scene.held or job.reason_code == "POSITION_UNKNOWN"
            assert all(order.state in TERMINAL for order in scene.orders(job))

        try:
            play(scenario, fills=fills, overnight=chance.choice([75, -75, 300]))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@contextlib.asynccontextmanager
async def another_hand(scene: Market, chance: random.Random) -> AsyncIterator[None]:
    """Close, turn round and open again in another app, told or not, and fill what rests."""

    async def trades() -> None:
        while True:
            await asyncio.sleep(chance.uniform(0.0, 2.0))
            quantity = chance.choice([1, 20, abs(scene.held), abs(scene.held) + 10])
            if chance.random() < 0.7 and quantity:
                scene.squared_off(quantity, is_told=chance.random() < 0.5)
            else:
                scene.squared_off(-chance.randint(1, 60), is_told=chance.random() < 0.5)
            for order_id in list(scene.broker.book):
                scene.trade(order_id, chance.choice([0, 0, 3, None]))

    async with asyncio.TaskGroup() as tasks:
        trading = tasks.create_task(trades())
        yield
        trading.cancel()


class Watched(Market):
    """A market that holds whatever comes to it against what is held at that instant."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.excesses: list[str] = []
        self.reduced = 0

    async def came(self, sent: Sent) -> None:
        rows = [row for row in self.broker.book.values() if row.tradingsymbol == KEY.tradingsymbol]
        if sent.kind is TaskKind.PLACE and any(sent.what in row.tags for row in rows):
            live = [row for row in rows if row.tags and row.status not in ENDED]
            sides = {row.transaction_type for row in live}
            left = sum(row.quantity - row.filled_quantity for row in live)
            self.reduced += 1
            if sides != {"SELL" if self.held > 0 else "BUY"} or left > abs(self.held):
                self.excesses.append(f"{sent.what}: {sides} {left} of {self.held}")
        await super().came(sent)


def test_whatever_another_hand_does_nothing_leaves_that_could_turn_the_position_round() -> None:
    """Its orders wait for a turn behind those of others, while somebody trades what they close."""

    async def playing(seed: int) -> int:
        chance = random.Random(seed)  # noqa: S311 - a play
        scene = Watched(limit_changes={"orders_per_second": 3})
        scene.fills = [chance.choice([0, 0, 5, 30, None]) for _ in range(60)]
        scene.overnight = chance.choice([75, -75, 300])
        other = dataclasses.replace(BUY, tradingsymbol="OTHER")
        async with scene.opened(), another_hand(scene, chance):
            job = await scene.exit(
                Exit(within_s=40, exchange=KEY.exchange, tradingsymbol=KEY.tradingsymbol)
            )
            while scene.now(job).state not in TERMINAL:
                with contextlib.suppress(OrderRefused):
                    await scene.place(other)
                await asyncio.sleep(chance.uniform(0.1, 1.0))
        job = scene.now(job)
        assert not scene.excesses
        assert job.state is S.DONE or job.reason_code
        assert all(order.state in TERMINAL for order in scene.orders(job))
        return scene.reduced

    reduced = 0
    for seed in range(5):
        try:
            reduced += virtual_time.run(playing(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    assert reduced > 4


def test_the_size_of_an_order_is_that_of_the_whole_position_only_once() -> None:
    """Two exits of one position at once close it once."""

    async def scenario(scene: Market) -> None:
        first, second = await scene.exit(), await scene.exit()
        assert (await scene.ends(first)).state is S.DONE
        assert (await scene.ends(second)).state is S.DONE
        assert scene.held == 0
        assert sum(row.filled_quantity for row in scene.broker.book.values()) == 75

    play(scenario)


def test_it_does_not_need_room_in_the_day_of_opening_orders() -> None:
    async def scenario(scene: Market) -> None:
        await scene.reaches(await scene.place(BUY), S.FILLED)
        with pytest.raises(OrderRefused, match="ORDER_LIMIT"):
            await scene.place(BUY)
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)

    async def playing() -> None:
        scene = Market(limit_changes={"orders_per_day": 3, "orders_per_day_reserve": 2})
        async with scene.opened():
            await scenario(scene)

    virtual_time.run(playing())


def test_a_position_that_was_opened_a_moment_ago_is_closed_too() -> None:
    """The positions had been read before it filled, and said flat."""

    async def scenario(scene: Market) -> None:
        await scene.desk.positions.refresh(than_s=0.0)
        await scene.reaches(await scene.place(BUY), S.FILLED)
        job = await scene.ends(await scene.exit())
        assert (job.state, scene.held) == (S.DONE, 0)
        assert scene.sent(TaskKind.PLACE) == 2

    play(scenario, overnight=0)


def test_an_exit_never_asks_the_broker_for_a_margin() -> None:
    async def playing() -> None:
        scene = Market(risk={"broker_margin": True})
        scene.sources = RiskSources(margin=scene.broker.order_margin)
        scene.broker.margin = dataclasses.replace(scene.broker.margin, available_inr=Decimal(-1))
        scene.renew()
        async with scene.opened():
            job = await scene.ends(await scene.exit())
            assert (job.state, scene.held) == (S.DONE, 0)
            assert scene.broker.margins_asked == []

    virtual_time.run(playing())
