"""After a kill switch is thrown nothing new leaves, until somebody releases it (I12)."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import virtual_time
from order_scene import ACCOUNT, BUY, NOON_NS, Scene, broker_order, cancelling

from ticker_service.accounts.kill_switches import LOOK_S, KillSwitches
from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.kill_switch import KillLevel, KillScope, KillSwitch
from ticker_service.domain.order import Account, TaskKind, Variety
from ticker_service.domain.order_state import UNSENT, TaskState
from ticker_service.errors import JournalUnavailable, OrderRefused
from ticker_service.orders.cancel_all import ASK_AGAIN_S, CancelAll
from ticker_service.testing import Answer, MemoryJournal, MemoryKillStore

if TYPE_CHECKING:
    from ticker_service.ports import Reply
    from ticker_service.testing import Sent

S = TaskState
SYMBOL = f"{BUY.exchange}:{BUY.tradingsymbol}"


def switch(scope: str = "all", level: KillLevel = KillLevel.HALT_NEW) -> KillSwitch:
    return KillSwitch(
        switch_id=uuid.uuid4(),
        scope=KillScope.of(scope),
        level=level,
        why="the model is mad",
        by_whom="operator",
        since_ns=NOON_NS,
    )


async def refused(scene: Scene) -> OrderRefused:
    with pytest.raises(OrderRefused) as error:
        await scene.place()
    return error.value


@pytest.mark.parametrize("scope", ["all", f"account:{ACCOUNT}", f"symbol:{SYMBOL}"])
def test_a_new_order_is_refused_and_told_who_stopped_it_and_why(scope: str) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.kill_store.throw(switch(scope))
            answer = await refused(scene)
            assert answer.code == "KILL_SWITCH"
            assert "operator (the model is mad)" in answer.rule
            assert f"HALT_NEW on {scope}" in answer.rule
            assert not scene.broker.sent

    virtual_time.run(play())


@pytest.mark.parametrize("scope", ["account:OTHER", "symbol:NFO:SOMETHINGELSE"])
def test_what_a_switch_does_not_mean_goes_on(scope: str) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.kill_store.throw(switch(scope))
            await scene.reaches(await scene.place(), S.WORKING)

    virtual_time.run(play())


def test_while_it_stands_orders_can_be_cancelled_and_not_changed() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            scene.kill_store.throw(switch())
            with pytest.raises(OrderRefused, match="KILL_SWITCH"):
                await scene.modify(resting, price="99")
            await scene.reaches(await scene.cancel(resting), S.ACKED)
            await scene.reaches(resting, S.CANCELLED)

    virtual_time.run(play())


def test_a_change_of_an_order_in_a_stopped_symbol_does_not_leave() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            scene.kill_store.throw(switch(f"symbol:{SYMBOL}"))
            change = await scene.modify(resting, price="99")
            await scene.reaches(change, S.EXPIRED)
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


@pytest.mark.parametrize("written", [BUY.tradingsymbol.lower(), f" {BUY.tradingsymbol} "])
def test_a_stopped_symbol_is_stopped_however_it_is_written(written: str) -> None:
    """The day's instruments may be missing, and then any text comes as far as this."""
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.kill_store.throw(switch(f"symbol:{SYMBOL}"))
            with pytest.raises(OrderRefused, match="KILL_SWITCH"):
                await scene.place(dataclasses.replace(BUY, tradingsymbol=written))

    virtual_time.run(play())


def test_an_intent_that_was_committed_when_it_was_thrown_does_not_leave() -> None:
    scene = Scene()

    async def throw(name: str) -> None:
        if name == "claim":
            scene.kill_store.throw(switch())

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = throw
            placed = await scene.place()
            await scene.until(lambda: scene.now(placed).attempt == 1)
            await asyncio.sleep(1.0)
            assert not scene.broker.sent
            assert scene.now(placed).state is S.READY

    virtual_time.run(play())


def test_no_byte_leaves_after_it_is_thrown_into_a_burst_and_it_holds_after_a_restart() -> None:
    scene = Scene()

    async def slowly(_: Sent) -> None:
        await asyncio.sleep(0.3)

    async def play() -> None:
        async with scene.opened():
            scene.broker.on_sent = slowly
            orders = [await scene.place() for _ in range(110)]
            await scene.until(lambda: len(scene.broker.sent) >= 10)
            scene.kill_store.throw(switch())
            sent = len(scene.broker.sent)
            await asyncio.sleep(10.0)
            assert len(scene.broker.sent) == sent
            waiting = [order for order in orders if scene.now(order).state is S.READY]
            assert len(waiting) == len(orders) - sent
        scene.renew()
        async with scene.opened():
            assert (await refused(scene)).code == "KILL_SWITCH"
            await asyncio.sleep(60.0)
            assert len(scene.broker.sent) == sent
            assert {scene.now(order).state for order in waiting} == {S.EXPIRED}

    virtual_time.run(play())


@pytest.mark.parametrize("level", list(KillLevel))
def test_of_a_hundred_ready_and_ten_being_sent_none_leaves_after_it_is_thrown(
    level: KillLevel,
) -> None:
    """The ten wait for a connection, past the last look of the loop: the row F35."""
    scene = Scene(config=OrdersConfig(sends_parallel=10))

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.extend([Answer(connects_s=3.0)] * 200)
            orders = [await scene.place() for _ in range(110)]

            def count(*states: TaskState) -> int:
                return sum(scene.now(order).state in states for order in orders)

            await scene.until(lambda: count(S.SENDING) == 10)
            assert (count(*UNSENT), scene.broker.sent) == (100, [])
            scene.kill_store.throw(switch(level=level))
            await asyncio.sleep(20.0)
            assert (count(*UNSENT), scene.broker.sent) == (110, [])
        scene.renew()
        async with scene.opened():
            assert (await refused(scene)).code == "KILL_SWITCH"
            await asyncio.sleep(60.0)
            assert (count(S.EXPIRED), scene.broker.sent) == (110, [])

    virtual_time.run(play())


def test_what_waits_goes_out_once_it_is_released() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            waiting = (await scene.journal.admit(scene.new(TaskKind.PLACE, _BODY))).task
            scene.kill_store.throw(switch())
            await asyncio.sleep(5.0)
            assert scene.now(waiting).state is S.READY
            scene.kill_store.release(KillScope.of("all"), by_whom="operator", now_ns=NOON_NS)
            await scene.reaches(waiting, S.WORKING)

    virtual_time.run(play())


def test_cancel_all_cancels_what_is_open_by_whomever_and_what_surfaces_late() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened(), cancelling(scene):
            ours = await scene.reaches(await scene.place(), S.WORKING)
            for order_id, fields in {
                "foreign": {},
                "filled": {"status": "COMPLETE"},
                "late": {},
            }.items():
                scene.broker.book[order_id] = broker_order(order_id=order_id, **fields)
            scene.broker.hidden.add("late")
            scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
            await scene.reaches(ours, S.CANCELLED)
            assert scene.broker.book["foreign"].status == "CANCELLED"
            scene.broker.hidden.clear()
            await scene.until(lambda: scene.broker.book["late"].status == "CANCELLED", within_s=5)
            assert scene.broker.book["filled"].status == "COMPLETE"
            cancelled = [sent.what for sent in scene.broker.sent if sent.kind is TaskKind.CANCEL]
            assert sorted(cancelled) == sorted(set(cancelled))

    virtual_time.run(play())


def test_cancel_all_of_a_symbol_leaves_the_others_alone() -> None:
    scene = Scene()

    async def play() -> None:
        async with cancelling(scene):
            scene.broker.book["other"] = broker_order(order_id="other", tradingsymbol="OTHER")
            scene.broker.book["meant"] = broker_order(order_id="meant")
            scene.kill_store.throw(switch(f"symbol:{SYMBOL}", KillLevel.CANCEL_ALL))
            await scene.until(lambda: scene.broker.book["meant"].status == "CANCELLED", within_s=5)
            await asyncio.sleep(10.0)
            assert scene.broker.book["other"].status == "OPEN"

    virtual_time.run(play())


def test_cancel_all_goes_by_the_route_that_an_after_market_order_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene, routes = Scene(), dict[str, Variety]()
    cancel = scene.broker.cancel

    async def noted(order_id: str, variety: Variety, **send: Any) -> Reply:
        routes[order_id] = variety
        return await cancel(order_id, variety, **send)

    monkeypatch.setattr(scene.broker, "cancel", noted)

    async def play() -> None:
        async with cancelling(scene):
            for order_id, status in {"sent": "OPEN", "kept": "AMO REQ RECEIVED"}.items():
                scene.broker.book[order_id] = broker_order(
                    order_id=order_id, variety="amo", status=status
                )
            scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
            await scene.until(lambda: len(routes) == 2, within_s=5)
            assert routes == {"sent": Variety.REGULAR, "kept": Variety.AMO}

    virtual_time.run(play())


def test_cancel_all_leaves_the_stop_of_a_cover_order_where_it_is() -> None:
    scene = Scene()

    async def play() -> None:
        stop = broker_order(order_id="2", variety="co", parent_order_id="1")
        scene.broker.book |= {"1": broker_order(order_id="1", variety="co"), "2": stop}
        async with scene.opened(), cancelling(scene):
            scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
            await scene.until(lambda: scene.broker.book["1"].status == "CANCELLED")
            await asyncio.sleep(ASK_AGAIN_S * 3)
        assert scene.broker.book["2"] == stop

    virtual_time.run(play())


def test_cancel_all_of_a_symbol_keeps_no_cancel_of_another_waiting() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened(), cancelling(scene):
            other = dataclasses.replace(BUY, tradingsymbol="NIFTY26NOV26000CE")
            resting = await scene.reaches(await scene.place(other), S.WORKING)
            for number in range(300):
                order_id = f"open-{number}"
                scene.broker.book[order_id] = broker_order(order_id=order_id)
            scene.kill_store.throw(switch(f"symbol:{SYMBOL}", KillLevel.CANCEL_ALL))
            await asyncio.sleep(5.0)
            asked_ns = scene.clock.monotonic_ns()
            cancel = await scene.cancel(resting)
            await scene.reaches(cancel, S.ACKED)
            assert scene.clock.monotonic_ns() - asked_ns < 2 * NS_PER_S
            await scene.until(
                lambda: {row.status for row in scene.broker.book.values()} == {"CANCELLED"},
                within_s=60,
            )

    virtual_time.run(play())


def test_cancel_all_needs_no_journal_and_asks_again_for_what_stays_open() -> None:
    scene = Scene()
    scene.journal.is_down = True

    async def play() -> None:
        async with cancelling(scene):
            scene.broker.book["a"] = broker_order(order_id="a")
            scene.broker.is_down = True
            scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
            await asyncio.sleep(3.0)
            scene.broker.is_down = False
            await scene.until(lambda: scene.broker.book["a"].status == "CANCELLED", within_s=5)
            scene.broker.change("a", status="OPEN")
            await scene.until(
                lambda: scene.broker.book["a"].status == "CANCELLED", within_s=2 * ASK_AGAIN_S
            )

    virtual_time.run(play())


def test_cancel_all_leaves_an_account_alone_that_another_daemon_has() -> None:
    scene = Scene()

    async def play() -> None:
        work = CancelAll(
            ACCOUNT,
            gateway=scene.broker,
            switches=scene.switches,
            pacer=scene.pacer,
            config=scene.config,
            clock=scene.clock,
        )
        scene.broker.book["a"] = broker_order(order_id="a")
        scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(work.run(lambda: False))
            await asyncio.sleep(30.0)
            running.cancel()
        assert not scene.broker.sent

    virtual_time.run(play())


def test_a_switch_thrown_on_another_machine_holds_here_by_way_of_the_journal() -> None:
    scene, there = Scene(), MemoryKillStore()

    async def play() -> None:
        elsewhere, beside = KillSwitches(there), MemoryJournal(beside=scene.journal)
        there.throw(switch())
        await elsewhere.settle(beside)
        await scene.switches.settle(scene.journal)
        assert scene.switches.holding(Account("ANY"))
        scope = KillScope.of("all")
        released = await scene.switches.release(
            scope, scene.journal, by_whom="b", now_ns=NOON_NS + 1
        )
        assert [each.released_by for each in released] == ["b"]
        await elsewhere.settle(beside)
        await scene.switches.settle(scene.journal)
        # The other machine's file still has it, and a file is its own machine's to change.
        assert elsewhere.holding(Account("ANY"))
        assert not scene.switches.holding(Account("ANY"))

    asyncio.run(play())


def test_the_journal_is_looked_at_again_and_again_also_after_it_was_away() -> None:
    scene = Scene()

    async def play() -> None:
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(scene.switches.keep(scene.journal))
            scene.journal.is_down = True
            await asyncio.sleep(5 * LOOK_S)
            scene.journal.is_down = False
            await scene.journal.keep_kill_switch(switch())
            await asyncio.sleep(2 * LOOK_S)
            assert scene.switches.holding(ACCOUNT)
            keeping.cancel()

    virtual_time.run(play())


def test_without_the_journal_nothing_is_released() -> None:
    scene = Scene()

    async def play() -> None:
        scene.kill_store.throw(switch())
        scene.journal.is_down = True
        with pytest.raises(JournalUnavailable):
            await scene.switches.release(
                KillScope.of("all"), scene.journal, by_whom="b", now_ns=NOON_NS
            )
        assert scene.switches.holding(ACCOUNT)

    asyncio.run(play())


def test_a_switch_that_the_disk_refuses_holds_all_the_same_and_goes_into_the_journal() -> None:
    scene = Scene()
    scene.kill_store.is_broken = True

    async def play() -> None:
        assert not await scene.switches.throw(switch())
        assert scene.switches.holding(ACCOUNT)
        await scene.switches.settle(scene.journal)
        assert scene.switches.holding(ACCOUNT)
        assert [each.stands for each in await scene.journal.kill_switches()] == [True]

    asyncio.run(play())


def test_one_thrown_while_another_goes_into_the_journal_is_not_forgotten() -> None:
    scene = Scene()
    scene.kill_store.is_broken = True

    async def throw_another(name: str) -> None:
        if name == "keep_kill_switch" and not scene.switches.holding(ACCOUNT):
            await scene.switches.throw(switch(f"account:{ACCOUNT}"))

    async def play() -> None:
        await scene.switches.throw(switch("account:OTHER"))
        scene.journal.before = throw_another
        await scene.switches.settle(scene.journal)
        assert scene.switches.holding(ACCOUNT)

    asyncio.run(play())


def test_one_that_only_the_journal_has_holds_from_the_first_moment_after_a_restart() -> None:
    scene = Scene()

    async def play() -> None:
        waiting = (await scene.journal.admit(scene.new(TaskKind.PLACE, _BODY))).task
        await scene.journal.keep_kill_switch(switch())
        async with scene.opened():
            assert (await refused(scene)).code == "KILL_SWITCH"
            await scene.reaches(waiting, S.EXPIRED)
        assert not scene.broker.sent

    virtual_time.run(play())


def test_everybody_is_told_once_when_one_is_thrown_and_when_it_is_released() -> None:
    store, told = MemoryKillStore(), []
    switches = KillSwitches(store, on_change=lambda each, stands: told.append((each.why, stands)))
    journal = MemoryJournal()

    async def play() -> None:
        await switches.throw(switch())
        for _ in range(3):
            await switches.settle(journal)
        await switches.release(KillScope.of("all"), journal, by_whom="b", now_ns=NOON_NS)
        await switches.settle(journal)
        assert told == [("the model is mad", True), ("the model is mad", False)]

    asyncio.run(play())


def test_who_releases_one_switch_is_told_of_the_others_as_standing_not_as_thrown() -> None:
    store, journal = MemoryKillStore(), MemoryJournal()
    for scope in ("account:OTHER", "account:MAIN"):
        store.throw(switch(scope))

    async def play() -> list[tuple[str, str]]:
        switches = KillSwitches(store)
        with structlog.testing.capture_logs() as said:
            scope = KillScope.of("account:MAIN")
            await switches.release(scope, journal, by_whom="b", now_ns=NOON_NS)
            await switches.throw(switch("account:LATER"))
        return [(each["event"], each["scope"]) for each in said]

    assert asyncio.run(play()) == [
        ("kill_switch_stands", "account:OTHER"),
        ("kill_switch_thrown", "account:LATER"),
    ]


_BODY = {
    "exchange": BUY.exchange,
    "tradingsymbol": BUY.tradingsymbol,
    "transaction_type": "BUY",
    "order_type": "LIMIT",
    "product": "NRML",
    "quantity": "75",
    "variety": "regular",
    "validity": "DAY",
    "price": "100.05",
}


def test_an_order_that_cannot_be_cancelled_is_told_once_and_again_when_it_changes() -> None:
    scene = Scene()

    async def play() -> list[tuple[str, str]]:
        async with cancelling(scene):
            scene.broker.book["a"] = broker_order(order_id="a", variety="strange")
            with structlog.testing.capture_logs() as said:
                scene.kill_store.throw(switch(level=KillLevel.CANCEL_ALL))
                await asyncio.sleep(60.0)
                scene.broker.change("a", variety="stranger")
                await asyncio.sleep(60.0)
                scene.broker.change("a", status="CANCELLED")
                await asyncio.sleep(60.0)
                scene.broker.change("a", status="OPEN")
                await asyncio.sleep(60.0)
        skips = [each for each in said if each["event"] == "cancel_all_skips"]
        return [(each["order_id"], each["variety"]) for each in skips]

    told = virtual_time.run(play())
    assert told == [("a", "strange"), ("a", "stranger"), ("a", "stranger")]


def test_a_groups_switch_stops_every_account_of_it_and_no_other() -> None:
    groups = {"PAIR": frozenset({"MAIN", "SPARE"}), "REST": frozenset({"OTHER"})}
    store = MemoryKillStore()
    switches = KillSwitches(store, groups=groups)
    store.throw(switch("group:PAIR", KillLevel.CANCEL_ALL))
    stopped = ["MAIN", "SPARE"]
    for account in stopped:
        assert switches.refusal(account, SYMBOL) is not None
        assert switches.cancels(account) == [KillScope.of(f"account:{account}")]
        assert switches.concerning([account])
    assert switches.refusal("OTHER", SYMBOL) is None
    assert not switches.cancels("OTHER")
    assert not switches.concerning(["OTHER"])


def test_a_switch_on_a_group_that_is_not_known_stops_every_account_and_cancels_nothing() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened(), cancelling(scene):
            resting = await scene.reaches(await scene.place(), S.WORKING)
            scene.kill_store.throw(switch("group:ELSEWHERE", KillLevel.CANCEL_ALL))
            assert (await refused(scene)).code == "KILL_SWITCH"
            await asyncio.sleep(30)
            assert scene.now(resting).state is S.WORKING
            scene.kill_store.release(
                KillScope.of("group:ELSEWHERE"), by_whom="operator", now_ns=NOON_NS
            )
            await scene.place()

    virtual_time.run(play())
