"""An account that its broker refuses as a whole sends nothing new, and says so, until that is over."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import pytest
import virtual_time
from order_scene import ACCOUNT, BUY, Scene
from structlog.testing import capture_logs

from ticker_service.config import OrdersConfig
from ticker_service.constants import NS_PER_S
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.session import from_instant_ns
from ticker_service.errors import OrderRefused
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, MemoryJournal, refusal

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderTask
    from ticker_service.testing import Sent

S = TaskState
WRONG_IP = refusal(403, "PermissionException", "Orders are not allowed from this IP")
DAY_LIMIT = refusal(429, "NetworkException", "Maximum allowed order requests exceeded.")


async def halted(scene: Scene, reply: object = WRONG_IP) -> OrderTask:
    """Let an order meet the refusal that halts the account."""
    scene.broker.answers.append(Answer(reply=reply, takes_effect=False))  # type: ignore[arg-type]
    return await scene.reaches(await scene.place(), S.REJECTED)


async def refused(scene: Scene) -> OrderRefused:
    with pytest.raises(OrderRefused) as error:
        await scene.place()
    return error.value


@pytest.mark.parametrize(
    ("reply", "code"),
    [(WRONG_IP, HaltCode.WRONG_IP), (DAY_LIMIT, HaltCode.BROKER_ORDER_LIMIT)],
    ids=lambda it: it if isinstance(it, HaltCode) else None,
)
def test_after_a_refusal_of_the_account_new_orders_are_refused_with_what_to_do(
    reply: object, code: HaltCode
) -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await halted(scene, reply)
            answer = await refused(scene)
            assert (answer.code, answer.field, answer.value) == (
                "ACCOUNT_HALTED",
                "account",
                ACCOUNT,
            )
            assert code in answer.rule
            assert scene.halts.standing()[0].advice in answer.rule
            await asyncio.sleep(120.0)
            assert len(scene.broker.sent) == 1
        assert scene.halt_changes[0] == (code, True)

    virtual_time.run(play())


def test_a_halted_account_cancels_and_does_not_change() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            resting = await scene.reaches(await scene.place(), S.WORKING)
            await halted(scene)
            with pytest.raises(OrderRefused) as error:
                await scene.modify(resting, price="99")
            assert error.value.code == "ACCOUNT_HALTED"
            await scene.reaches(await scene.cancel(resting), S.ACKED)
            await scene.reaches(resting, S.CANCELLED)

    virtual_time.run(play())


def test_what_waits_when_the_account_is_halted_stays_ready_until_its_time_is_over() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=WRONG_IP, takes_effect=False))
            scene.broker.on_sent = _slowly
            orders = [await scene.place() for _ in range(12)]
            await scene.until(scene.halts.standing)
            sent = len(scene.broker.sent)
            await asyncio.sleep(10.0)
            waiting = [order for order in orders if scene.now(order).state is S.READY]
            assert len(waiting) >= 4
            await asyncio.sleep(30.0)
            for order in waiting:
                assert scene.now(order).state is S.EXPIRED
            assert len(scene.broker.sent) == sent

    virtual_time.run(play())


async def _slowly(_: Sent) -> None:
    await asyncio.sleep(0.5)


def test_an_intent_that_was_committed_when_the_account_was_halted_does_not_leave() -> None:
    scene = Scene()

    async def halt(name: str) -> None:
        if name == "claim":
            scene.halts.begin(HaltCode.WRONG_IP, "meanwhile")

    async def play() -> None:
        async with scene.opened():
            scene.journal.after = halt
            placed = await scene.place()
            await scene.until(lambda: scene.now(placed).attempt == 1)
            await asyncio.sleep(1.0)
            assert not scene.broker.sent
            assert scene.now(placed).state is S.READY

    virtual_time.run(play())


def test_a_person_lifts_a_wrong_address_and_what_waits_goes_out_at_once() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await halted(scene)
            waiting = (await scene.journal.admit(scene.new(TaskKind.PLACE, _BODY))).task
            await asyncio.sleep(20.0)
            assert scene.now(waiting).state in {S.RECEIVED, S.READY}
            now_ns = scene.clock.now_ns()
            await scene.journal.lift_halts(ACCOUNT, by_whom="me", now_ns=now_ns)
            await scene.reaches(waiting, S.ACKED)
            assert scene.clock.now_ns() - now_ns < 5 * NS_PER_S
        assert scene.halt_changes == [(HaltCode.WRONG_IP, True), (HaltCode.WRONG_IP, False)]

    virtual_time.run(play())


def test_the_broker_s_day_limit_ends_at_six_in_the_morning() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await halted(scene, DAY_LIMIT)
            (halt,) = scene.halts.standing()
            assert halt.until_ns is not None
            until = from_instant_ns(halt.until_ns)
            assert (until.date(), until.time()) == (dt.date(2026, 11, 22), dt.time(6, 0))
            await asyncio.sleep((halt.until_ns - scene.clock.now_ns()) / NS_PER_S - 1.0)
            await refused(scene)
            await asyncio.sleep(1.0)
            await scene.reaches(await scene.place(), S.ACKED)

    virtual_time.run(play())


def test_a_wrong_address_does_not_pass_with_time() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await halted(scene)
            await asyncio.sleep(86_400.0)
            await refused(scene)

    virtual_time.run(play())


def test_a_halt_survives_a_restart() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            await halted(scene)
            await asyncio.sleep(1.0)
        scene.renew()
        async with scene.opened():
            assert (await refused(scene)).code == "ACCOUNT_HALTED"

    virtual_time.run(play())


def test_a_halt_holds_while_the_journal_is_away_and_is_durable_once_it_is_back() -> None:
    scene = Scene()

    async def break_down(_: Sent) -> None:
        scene.journal.is_down = True

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=WRONG_IP, takes_effect=False))
            scene.broker.on_sent = break_down
            await scene.place()
            await scene.until(scene.halts.standing)
            await asyncio.sleep(10.0)
            assert scene.halts.standing()
            scene.journal.is_down = False
            await asyncio.sleep(5.0)
            (kept,) = await scene.journal.halts(ACCOUNT)
            assert kept == scene.halts.standing()[0]

    virtual_time.run(play())


def test_two_orders_of_one_request_halt_the_account_until_a_person_has_looked() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            placed = await scene.reaches(await scene.place(), S.WORKING)
            await scene.broker.place(BUY, tag=placed.tag or "", deadline_ns=2**62)
            for order_id in scene.broker.book:
                scene.broker.change(order_id, order_timestamp="2026-11-21 12:00:00")
            with capture_logs() as logs:
                scene.desk.want_book()
                await scene.until(scene.halts.standing)
            assert "duplicate_order" in {entry["event"] for entry in logs}
            (halt,) = scene.halts.standing()
            assert (halt.code, halt.until_ns) == (HaltCode.DUPLICATE_ORDER, None)
            await asyncio.sleep(1.0)
            await scene.journal.lift_halts(ACCOUNT, by_whom="me", now_ns=scene.clock.now_ns())
            await scene.until(lambda: not scene.halts.standing())
        scene.renew()
        async with scene.opened():
            # The same two are in the book all day.
            await asyncio.sleep(60.0)
            assert not scene.halts.standing()

    virtual_time.run(play())


def test_an_order_of_ours_that_the_journal_lost_halts_the_account_before_it_takes_any() -> None:
    scene = Scene()

    async def play() -> None:
        async with scene.opened():
            lost = await scene.reaches(await scene.place(), S.WORKING)
        # An older copy of the database is put back: the caller's key is new to it.
        scene.journal = MemoryJournal()
        scene.renew()
        async with scene.opened():
            assert (await refused(scene)).code == "ACCOUNT_HALTED"
            (halt,) = scene.halts.standing()
            assert halt.code is HaltCode.ORPHAN_ORDER
            assert (lost.tag or "") in halt.reason

    virtual_time.run(play())


def test_an_order_held_for_unsent_that_is_at_the_broker_is_never_sent_again() -> None:
    scene = Scene(config=OrdersConfig(retry_s_min=20.0, retry_s_max=20.0))
    lost = Reply(withheld=Withheld.NOTHING_LEFT, failure="refused to connect")

    async def play() -> None:
        async with scene.opened():
            scene.broker.answers.append(Answer(reply=lost))
            placed = await scene.place()
            await scene.until(lambda: scene.journal.states(placed.task_id).count(S.READY) > 1)
            with capture_logs() as logs:
                scene.desk.want_book()
                await scene.reaches(placed, S.WORKING)
            assert "unsent_order_at_broker" in {entry["event"] for entry in logs}
            (halt,) = scene.halts.standing()
            assert halt.code is HaltCode.UNSENT_AT_BROKER
            await asyncio.sleep(1.0)
            await scene.journal.lift_halts(ACCOUNT, by_whom="me", now_ns=scene.clock.now_ns())
            await asyncio.sleep(60.0)
            assert not scene.halts.standing()
            assert len(scene.broker.sent) == 1

    virtual_time.run(play())


@pytest.mark.parametrize("lasts", [False, True], ids=["ended", "in-doubt"])
def test_a_try_called_unsent_that_is_at_the_broker_halts_the_account(lasts: bool) -> None:  # noqa: FBT001
    scene = Scene()
    unsent = Reply(withheld=Withheld.NOTHING_LEFT, failure="refused to connect")
    silence = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")

    async def play() -> None:
        async with scene.opened():
            scene.broker.hidden.add("000000000000001")
            tries = [Answer(reply=silence, takes_effect=False)] if lasts else []
            tries = tries or [Answer(reply=unsent, takes_effect=False)] * 9
            scene.broker.answers.extend([Answer(reply=unsent), *tries])
            placed = await scene.place()
            await scene.reaches(placed, TaskState.UNKNOWN if lasts else TaskState.REJECTED_LOCAL)
            scene.broker.hidden.clear()
            scene.desk.want_book()
            await scene.reaches(placed, TaskState.WORKING)
            (halt,) = scene.halts.standing()
            assert halt.code is HaltCode.UNSENT_AT_BROKER
            assert (await refused(scene)).code == "ACCOUNT_HALTED"

    virtual_time.run(play())


_BODY = {
    "exchange": "NFO",
    "tradingsymbol": BUY.tradingsymbol,
    "transaction_type": "BUY",
    "order_type": "LIMIT",
    "product": "NRML",
    "quantity": "75",
    "variety": "regular",
    "validity": "DAY",
    "price": "100.05",
}
