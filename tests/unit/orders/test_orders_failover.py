"""An unsent order of a group goes on on another account, once, and nothing else does (I8)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from group_scene import EVERYTHING, MAIN, SPARE, THIRD, GroupScene
from order_scene import BUY, broker_order

from ticker_service.accounts.breaker import BreakerRules
from ticker_service.config import OrdersConfig
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import Account, Side, event_message
from ticker_service.domain.order_replay import differences, replay
from ticker_service.domain.order_state import TaskState
from ticker_service.domain.portfolio import BrokerPosition, PositionKey
from ticker_service.domain.risk import risk_table
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer as BrokerAnswer
from ticker_service.testing import refusal

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderTask

S = TaskState


def play(scene: GroupScene, what: Any) -> None:
    async def scenario() -> None:
        async with scene.opened():
            await what()

    virtual_time.run(scenario())


async def went_on(scene: GroupScene, order: OrderTask) -> OrderTask:
    """Wait until an order goes on elsewhere, and return the task that does."""
    main = scene[order.account]
    await main.reaches(order, S.FAILED_OVER)
    return (await scene.journal.lineage(order))[-1]


def sent(scene: GroupScene) -> dict[str, int]:
    """Return how many orders each account's broker has."""
    return {account: len(each.broker.book) for account, each in scene.scenes.items()}


def throttled() -> BrokerAnswer:
    return BrokerAnswer(reply=refusal(429, "NetworkException"), takes_effect=False)


def unsent() -> BrokerAnswer:
    reply = Reply(withheld=Withheld.NOTHING_LEFT, failure="connection refused")
    return BrokerAnswer(reply=reply, takes_effect=False)


def refused_token() -> BrokerAnswer:
    return BrokerAnswer(reply=refusal(403, "TokenException"), takes_effect=False)


@pytest.mark.parametrize(
    ("answer", "evidence"),
    [(unsent, "NOT_SENT"), (throttled, "THROTTLED"), (refused_token, "REJECTED_AUTH")],
)
def test_what_the_broker_certainly_has_not_goes_out_on_the_other_account_once(
    answer: Any, evidence: str
) -> None:
    scene = GroupScene()

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(answer())
        order = await scene.place("a")
        now = await went_on(scene, order)
        assert (now.account, now.hop, now.origin_task_id) == (SPARE, 1, order.task_id)
        now = await scene[SPARE].reaches(now, S.WORKING)
        assert sent(scene) == {MAIN: 0, SPARE: 1}
        former = scene.journal.tasks[order.task_id]
        over = (await scene.journal.events_after(MAIN, 0, limit=20))[-1]
        assert (former.state, former.reason_code) == (S.FAILED_OVER, "FAILED_OVER")
        assert over.event == "failed_over"
        told = over.data["facts"]
        assert isinstance(told, dict)
        assert (told["evidence"], told["ruling"]) == (evidence, "CERTAINLY_NOT_THERE")
        assert (told["to_account"], told["successor"]) == (SPARE, str(now.task_id))
        begun = (await scene.journal.events_after(SPARE, 0, limit=1))[0]
        assert begun.data["facts"]["route"]["from_account"] == MAIN  # type: ignore[index]
        # The key, asked again, is where the order is.
        again = await scene.ask("a")
        assert (again.task.task_id, again.is_new) == (now.task_id, False)
        assert (await scene.front.order(EVERYTHING, "a")).account == SPARE

    play(scene, scenario)


@pytest.mark.parametrize("how", ["halt", "login", "breaker"])
def test_what_waits_behind_a_halt_a_login_or_a_breaker_goes_out_elsewhere(how: str) -> None:
    scene = GroupScene(breaker_rules=BreakerRules(failures_max=1, open_s=600.0))
    main = scene[MAIN]

    async def hinder(name: str) -> None:
        # After it was journalled for MAIN and before anybody carries it.
        if name != "admit":
            return
        main.journal.after = at_once
        match how:
            case "halt":
                main.halts.begin(HaltCode.WRONG_IP, "moved")
            case "login":
                main.desk.token_has_ended()
            case "breaker":
                permit = main.breaker.admit()
                assert permit is not None
                permit.failed()

    async def scenario() -> None:
        main.journal.after = hinder
        order = await scene.place()
        assert order.account == MAIN
        now = await went_on(scene, order)
        await scene[SPARE].reaches(now, S.WORKING)
        assert sent(scene) == {MAIN: 0, SPARE: 1}
        over = (await scene.journal.events_after(MAIN, 0, limit=20))[-1].data["facts"]
        assert isinstance(over, dict)
        assert (over["ruling"], over["evidence"]) == ("NEVER_SENT", "NEVER_SENT")

    play(scene, scenario)


async def at_once(_: str) -> None:
    return


def test_what_may_be_at_the_broker_stays_whatever_becomes_of_its_account() -> None:
    scene = GroupScene()

    async def scenario() -> None:
        reply = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer")
        scene[MAIN].broker.answers.append(BrokerAnswer(reply=reply))
        scene[MAIN].broker.is_down = True
        order = await scene.place()
        await scene[MAIN].reaches(order, S.UNKNOWN)
        scene[MAIN].desk.token_has_ended()
        await asyncio.sleep(60.0)
        assert scene.journal.tasks[order.task_id].state is S.UNKNOWN
        assert len(await scene.journal.lineage(order)) == 1
        assert sent(scene)[SPARE] == 0

    play(scene, scenario)


@pytest.mark.parametrize("code", [HaltCode.UNSENT_AT_BROKER, HaltCode.ORPHAN_ORDER])
def test_nothing_leaves_an_account_of_which_it_is_not_known_what_its_broker_has(
    code: HaltCode,
) -> None:
    scene = GroupScene()

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(throttled())
        scene[SPARE].halts.begin(HaltCode.WRONG_IP, "for now")
        order = await scene.place()
        await scene[MAIN].until(lambda: scene.journal.tasks[order.task_id].attempt == 1)
        scene[MAIN].halts.begin(code, "look")
        scene[SPARE].halts._standing.clear()
        await scene[MAIN].reaches(order, S.EXPIRED)
        assert sent(scene) == {MAIN: 0, SPARE: 0}

    play(scene, scenario)


def test_an_order_that_may_close_a_position_stays_where_it_is() -> None:
    scene = GroupScene()
    sale = dataclasses.replace(BUY, transaction_type=Side.SELL)
    key = PositionKey(BUY.exchange, BUY.tradingsymbol, BUY.product)
    scene[MAIN].broker.net_positions = [BrokerPosition(key=key, quantity=75, overnight_quantity=75)]

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(throttled())
        order = await scene.place(order=sale)
        await scene[MAIN].reaches(order, S.WORKING)
        assert len(await scene.journal.lineage(order)) == 1
        assert sent(scene) == {MAIN: 1, SPARE: 0}
        # What opens one goes.
        scene[MAIN].broker.answers.append(throttled())
        other = dataclasses.replace(BUY, tradingsymbol="NIFTY26NOV25000PE")
        assert (await went_on(scene, await scene.place(order=other))).account == SPARE

    play(scene, scenario)


def test_an_order_that_may_close_what_another_one_opens_stays_as_well() -> None:
    scene = GroupScene()
    sale = dataclasses.replace(BUY, transaction_type=Side.SELL)

    async def scenario() -> None:
        bought = await scene.place(account=MAIN)
        await scene[MAIN].reaches(bought, S.WORKING)
        scene[MAIN].broker.answers.append(throttled())
        order = await scene.place(order=sale)
        await scene[MAIN].reaches(order, S.WORKING)
        assert sent(scene) == {MAIN: 2, SPARE: 0}

    play(scene, scenario)


def test_it_visits_each_account_once_and_then_waits_for_its_time() -> None:
    scene = GroupScene(MAIN, SPARE, THIRD)

    async def scenario() -> None:
        for each in scene.scenes.values():
            each.broker.answers.extend([unsent()] * 9)
        order = await scene.place("a")
        await scene.until(lambda: len(scene.journal.tasks) == 3)
        last = (await scene.journal.lineage(order))[-1]
        await scene[last.account].reaches(last, S.REJECTED_LOCAL, S.EXPIRED)
        visited = [each.account for each in await scene.journal.lineage(order)]
        assert visited == [MAIN, SPARE, THIRD]
        assert sent(scene) == {MAIN: 0, SPARE: 0, THIRD: 0}
        assert (await scene.front.order(EVERYTHING, "a")).task_id == last.task_id

    play(scene, scenario)


def test_a_cancel_that_was_asked_of_the_former_ends_the_order_where_it_is() -> None:
    scene = GroupScene(config=OrdersConfig(deadline_s=60.0))

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(throttled())
        order = await scene.place("a")
        now = await went_on(scene, order)
        now = await scene[SPARE].reaches(now, S.WORKING)
        # As a caller on another daemon's door would still have it.
        cancel = await scene[MAIN].cancel(order, client_order_id="a", request_id="c")
        await scene[MAIN].reaches(cancel, S.FAILED_OVER)
        follows = (await scene.journal.lineage(cancel))[-1]
        assert (follows.account, follows.target_task_id) == (SPARE, now.task_id)
        await scene[SPARE].reaches(now, S.CANCELLED)
        answer = await scene.front.cancel(EVERYTHING, client_order_id="a", request_id="c")
        assert (answer.task.task_id, answer.is_new) == (follows.task_id, False)
        # A new one goes there at once.
        again = await scene.front.cancel(EVERYTHING, client_order_id="a", request_id="d")
        assert again.task.account == SPARE

    play(scene, scenario)


def test_a_try_that_was_called_unsent_and_surfaces_halts_every_account_it_has_been_on() -> None:
    scene = GroupScene(config=OrdersConfig(deadline_s=100.0))
    main, spare = scene[MAIN], scene[SPARE]

    async def scenario() -> None:
        main.broker.answers.append(throttled())
        spare.broker.answers.extend([unsent()] * 2)
        order = await scene.place("a")
        now = await went_on(scene, order)
        tag = main.journal.attempts[0].tag
        assert tag is not None
        surfaced = broker_order(order_id="26X", tags=(tag,), status="OPEN")
        main.desk.take_update(surfaced)
        main.broker.book["26X"] = surfaced
        await main.reaches(order, S.WORKING)
        assert [each.code for each in main.halts.standing()] == [HaltCode.UNSENT_AT_BROKER]
        assert [each.code for each in spare.halts.standing()] == [HaltCode.UNSENT_AT_BROKER]
        # The key is where the order lives, and what would go on is not sent any more.
        assert (await scene.front.order(EVERYTHING, "a")).task_id == order.task_id
        await spare.reaches(now, S.EXPIRED)
        assert sent(scene) == {MAIN: 1, SPARE: 0}

    play(scene, scenario)


@pytest.mark.parametrize("consents", [True, False])
def test_a_refusal_for_margin_goes_on_by_consent_only_and_as_another_task(consents: bool) -> None:  # noqa: FBT001
    scene = GroupScene(moves_on_margin=consents)

    async def scenario() -> None:
        no = BrokerAnswer(reply=refusal(400, "MarginException"), takes_effect=False)
        scene[MAIN].broker.answers.append(no)
        order = await scene.place("a")
        refused = await scene[MAIN].reaches(order, S.REJECTED)
        lineage = await scene.journal.lineage(order)
        assert refused.reason_code == "MARGIN"
        assert len(lineage) == 1 + consents
        assert scene.journal.shared.outcomes[order.task_id, 1] == "REJECTED"
        if consents:
            await scene[SPARE].reaches(lineage[-1], S.WORKING)
        assert sent(scene) == {MAIN: 0, SPARE: int(consents)}

    play(scene, scenario)


def no_margin(*, takes_effect: bool = False) -> BrokerAnswer:
    return BrokerAnswer(reply=refusal(400, "MarginException"), takes_effect=takes_effect)


def test_a_refusal_for_margin_stands_where_the_other_account_is_lost_before_it_goes_on() -> None:
    scene = GroupScene(moves_on_margin=True)

    async def overtake(name: str) -> None:
        if name == "hand_over":
            scene.journal.before = at_once
            # Another daemon writes SPARE by now, and ours has not heard of it.
            scene.journal.lose_writer(SPARE, superseded=True, is_noticed=False)

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(no_margin())
        scene.journal.before = overtake
        order = await scene.place("a")
        refused = await scene[MAIN].reaches(order, S.REJECTED)
        assert refused.reason_code == "MARGIN"
        assert S.UNKNOWN not in scene.journal.states(order.task_id)
        assert len(await scene.journal.lineage(order)) == 1
        assert sent(scene) == {MAIN: 0, SPARE: 0}

    play(scene, scenario)


def test_an_order_that_went_on_for_want_of_margin_and_surfaces_halts_both_accounts() -> None:
    scene = GroupScene(moves_on_margin=True)

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(no_margin(takes_effect=True))
        order = await scene.place("a")
        await scene[MAIN].reaches(order, S.WORKING)
        await scene[SPARE].reaches((await scene.journal.lineage(order))[-1], S.WORKING)
        for account in (MAIN, SPARE):
            standing = [each.code for each in scene[account].halts.standing()]
            assert standing == [HaltCode.UNSENT_AT_BROKER]

    play(scene, scenario)


def test_a_refusal_for_margin_that_the_book_repeats_halts_nothing() -> None:
    scene = GroupScene(moves_on_margin=True)
    main = scene[MAIN]

    async def scenario() -> None:
        main.broker.answers.append(no_margin())
        order = await scene.place("a")
        await main.reaches(order, S.REJECTED)
        tags = (main.journal.attempts[0].tag or "",)
        main.desk.take_update(broker_order(order_id="26X", tags=tags, status="REJECTED"))
        await asyncio.sleep(60.0)
        assert main.now(order).state is S.REJECTED
        assert main.halts.standing() == scene[SPARE].halts.standing() == ()

    play(scene, scenario)


def test_a_former_that_dies_before_it_hands_over_does_so_after_its_restart() -> None:
    scene = GroupScene(config=OrdersConfig(deadline_s=600.0))

    async def scenario() -> None:
        scene[SPARE].halts.begin(HaltCode.WRONG_IP, "for now")
        scene[MAIN].broker.answers.append(throttled())
        order = await scene.place()
        await scene[MAIN].until(lambda: scene.journal.tasks[order.task_id].attempt == 1)
        assert len(await scene.journal.lineage(order)) == 1
        scene.journal.lose_writer(MAIN)
        await scene.until(lambda: not scene.journal.is_writer(MAIN))
        scene[SPARE].halts._standing.clear()
        await asyncio.sleep(30.0)
        # Nobody writes MAIN: nothing may leave it.
        assert len(await scene.journal.lineage(order)) == 1
        assert sent(scene) == {MAIN: 0, SPARE: 0}

    async def play_out() -> None:
        with contextlib.suppress(BaseExceptionGroup):  # the desk that lost its account ends so
            async with scene.opened():
                await scenario()

    virtual_time.run(play_out())


@pytest.mark.parametrize("others", [(SPARE,), (SPARE, THIRD)])
def test_an_account_that_denies_an_order_by_risk_is_asked_once_and_the_next_one_then(
    others: tuple[Account, ...],
) -> None:
    scene = GroupScene(MAIN, *others)
    denials: list[Any] = []
    tight = risk_table({"accounts": {"SPARE": {"order_value_inr_max": 1}}})

    async def scenario() -> None:
        scene[SPARE].tables.take(tight)
        scene[SPARE].desk.risk.on_denial = lambda *told: denials.append(told)
        scene[MAIN].broker.answers.append(refused_token())
        scene[MAIN].broker.is_token_refused = True
        order = await scene.place("a")
        await scene[MAIN].reaches(order, S.EXPIRED, S.FAILED_OVER)
        assert len(denials) == 1
        lineage = [each.account for each in await scene.journal.lineage(order)]
        assert lineage == [MAIN, *others[1:]]
        assert scene.journal.tasks[order.task_id].state is (
            S.FAILED_OVER if others[1:] else S.EXPIRED
        )

    play(scene, scenario)


def test_an_account_that_denied_an_order_is_asked_again_by_other_limits() -> None:
    scene = GroupScene()
    tight = risk_table({"accounts": {"SPARE": {"order_value_inr_max": 1}}})

    async def scenario() -> None:
        scene[SPARE].tables.take(tight)
        scene[MAIN].broker.answers.append(refused_token())
        scene[MAIN].broker.is_token_refused = True
        order = await scene.place("a")
        await asyncio.sleep(5.0)
        assert scene[MAIN].now(order).state is S.READY
        scene[SPARE].tables.take(risk_table())
        await went_on(scene, order)

    play(scene, scenario)


@pytest.mark.parametrize("moves_on_margin", [True, False])
def test_who_may_read_one_account_is_told_no_other_of_its_group(moves_on_margin: bool) -> None:  # noqa: FBT001
    scene = GroupScene(moves_on_margin=moves_on_margin)

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(no_margin() if moves_on_margin else throttled())
        order = await scene.place("a")
        over = S.REJECTED if moves_on_margin else S.FAILED_OVER
        assert SPARE not in str((await scene[MAIN].reaches(order, over)).reason)
        latter = (await scene.journal.lineage(order))[-1]
        await scene[SPARE].reaches(latter, S.WORKING)
        for account, other in ((MAIN, SPARE), (SPARE, MAIN)):
            events = await scene.journal.events_after(account, 0, limit=100)
            assert other in str([event.data for event in events])
            told = [event_message(each, may_use=account.__eq__) for each in events]
            assert other not in str(told)
            # Which task goes on, and why, is told all the same.
            assert "MARGIN" in str(told) or "THROTTLED" in str(told)
            # Who may use both is told all that the journal has.
            whole = [event_message(each, may_use=lambda _: True)["data"] for each in events]
            assert whole == [event.data for event in events]
        (last,) = (await scene.journal.events_after(MAIN, 0, limit=100))[-1:]
        facts = event_message(last, may_use=MAIN.__eq__)["data"]["facts"]  # type: ignore[index]
        assert facts["successor"] == str(latter.task_id)

    play(scene, scenario)


def test_both_logs_replay_to_what_there_is() -> None:
    scene = GroupScene()

    async def scenario() -> None:
        scene[MAIN].broker.answers.append(throttled())
        order = await scene.place()
        now = await went_on(scene, order)
        now = await scene[SPARE].reaches(now, S.WORKING)
        for account in (MAIN, SPARE):
            events = await scene.journal.events_after(account, 0, limit=100)
            of_task: dict[Any, list[Any]] = {}
            for event in events:
                of_task.setdefault(event.task_id, []).append(event)
            for task_id, told in of_task.items():
                replayed = replay(told)
                row = scene.journal.tasks[task_id]
                assert not [
                    fault for fault in differences(replayed, row, replayed.attempts) if fault.field
                ]

    play(scene, scenario)
