"""The dead-letter desk: what it shows of an order, and what a person may decide about it."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
import virtual_time
from group_scene import MAIN, SPARE, GroupScene
from order_scene import ACCOUNT, BUY, Scene, broker_order

from ticker_service.constants import NS_PER_S
from ticker_service.domain import dead_letter
from ticker_service.domain.dead_letter import Decision, DeskAction, Ending
from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import Account, TaskKind, to_fields
from ticker_service.domain.order_state import FAILED, TERMINAL, TaskState
from ticker_service.domain.session import from_instant_ns
from ticker_service.domain.tag import tag_of
from ticker_service.errors import OrderRefused
from ticker_service.orders import dead_letters
from ticker_service.orders.access import Caller
from ticker_service.orders.front import FrontDesk
from ticker_service.ports import Reply, Withheld
from ticker_service.testing import Answer, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ticker_service.domain.order import OrderTask
    from ticker_service.orders.dead_letters import DeadLetters

SILENCE: Final = Reply(withheld=Withheld.MAY_HAVE_LEFT, failure="no answer in time")
NIGHT: Final = Caller(principal="night-desk", accounts="all")
SURE: Final = Decision(by_whom="night-desk", why="looked at Kite")
FORCED: Final = dataclasses.replace(SURE, is_forced=True)


def desk_of(scene: Scene) -> DeadLetters:
    front = FrontDesk(
        {ACCOUNT: scene.desk}, scene.journal, scene.config, scene.clock, switches=scene.switches
    )
    return front.dead_letters


def play(scenario: Callable[[Scene, DeadLetters], Awaitable[None]]) -> None:
    async def played() -> None:
        scene = Scene()
        async with scene.opened():
            await scenario(scene, desk_of(scene))

    virtual_time.run(played())


async def unknown(scene: Scene, *, arrives: bool = False) -> OrderTask:
    """Return an order whose send got no answer."""
    scene.broker.answers.append(Answer(reply=SILENCE, takes_effect=arrives))
    return await scene.reaches(await scene.place(), TaskState.UNKNOWN)


async def manual(scene: Scene) -> OrderTask:
    """Return an order that a look-alike without a tag made a person's."""
    task = await unknown(scene)
    scene.broker.book["77"] = broker_order(order_id="77")
    return await scene.reaches(task, TaskState.MANUAL)


async def refused(work: Awaitable[Any]) -> OrderRefused:
    with pytest.raises(OrderRefused) as error:
        await work
    return error.value


def test_an_order_in_doubt_is_listed_with_what_happens_by_itself_and_when() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        (letter,) = await desk.letters(NIGHT, None)
        assert letter.task.task_id == task.task_id
        assert letter.actions == (DeskAction.ADOPT, DeskAction.NOT_PLACED)
        assert letter.not_before_ns is not None
        assert letter.not_before_ns >= (task.send_not_after_ns or 0) + 90 * NS_PER_S
        assert "NOT_PLACED after 3 more whole books" in letter.happens
        ended = await scene.reaches(task, TaskState.NOT_PLACED)
        assert ended.updated_at_ns >= letter.not_before_ns
        (letter,) = await desk.letters(NIGHT, ACCOUNT)
        assert (letter.not_before_ns, letter.actions) == (
            None,
            (DeskAction.ADOPT, DeskAction.RESEND),
        )

    play(scenario)


def test_what_failed_is_listed_behind_what_is_undecided_and_not_the_next_day() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        scene.broker.answers.append(
            Answer(reply=refusal(400, "InputException"), takes_effect=False)
        )
        rejected = await scene.reaches(await scene.place(), TaskState.REJECTED)
        undecided = await manual(scene)
        await scene.reaches(await scene.place(), TaskState.WORKING)
        found = await desk.letters(NIGHT, None)
        assert [each.task.task_id for each in found] == [undecided.task_id, rejected.task_id]
        scene.pass_days(1)
        found = await desk.letters(NIGHT, None)
        assert [each.task.task_id for each in found] == [undecided.task_id]

    play(scenario)


def test_however_much_failed_what_is_undecided_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", 5)

    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        lost, doubt = await manual(scene), await unknown(scene)
        for _ in range(6):
            answer = Answer(reply=refusal(400, "InputException"), takes_effect=False)
            scene.broker.answers.append(answer)
            await scene.reaches(await scene.place(), TaskState.REJECTED)
        found = [each.task.task_id for each in await desk.letters(NIGHT, None)]
        assert (len(found), found[:2]) == (5, [doubt.task_id, lost.task_id])

    play(scenario)


def test_a_case_tells_each_send_the_books_read_since_and_what_looks_like_it() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await manual(scene)
        case = await desk.case(NIGHT, task.task_id)
        (attempt,) = dead_letter.attempts_told(case.events)
        assert (attempt.tag, attempt.outcome) == (task.tag, "AMBIGUOUS")
        assert "no answer in time" in attempt.message
        assert attempt.ended_at_ns is not None
        assert case.looks
        assert all(look.lacking == 0 for look in case.looks)
        assert [row.order_id for row in case.alike or ()] == ["77"]
        assert (case.audit, case.resent_as) == ([], None)
        scene.broker.is_down = True
        case = await desk.case(NIGHT, task.task_id)
        assert (case.alike, case.unread) == (None, "told to be down")

    play(scenario)


def test_a_book_that_lacks_a_known_order_is_told_to_prove_nothing() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        known = await scene.reaches(await scene.place(), TaskState.WORKING)
        scene.broker.hidden.add(known.broker_order_id or "")
        task = await unknown(scene)
        await asyncio.sleep(5.0)
        (letter,) = await desk.letters(NIGHT, None)
        assert "lacks 1 known orders and proves nothing" in letter.happens
        assert (await desk.case(NIGHT, task.task_id)).looks[-1].lacking == 1

    play(scenario)


def test_an_adopted_order_is_followed_like_any_other_and_its_audit_line_stays() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await manual(scene)
        adopted = await desk.adopt(NIGHT, task.task_id, "77", SURE)
        assert (adopted.state, adopted.broker_order_id) == (TaskState.WORKING, "77")
        scene.broker.change("77", status="COMPLETE", filled_quantity=75, average_price=BUY.price)
        await scene.reaches(task, TaskState.FILLED)
        case = await desk.case(NIGHT, task.task_id)
        (line,) = case.audit
        assert (line.event, line.by_whom, line.why) == (
            "adopted_by_person",
            "night-desk",
            "looked at Kite",
        )
        assert line.facts["order_id"] == "77"
        assert case.letter.actions == ()

    play(scenario)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"tradingsymbol": "NIFTY26NOV25000PE"}, "its tradingsymbol is NIFTY26NOV25000PE"),
        ({"transaction_type": "SELL"}, "its transaction_type is SELL, not BUY"),
        ({"quantity": 150}, "its quantity is 150, not 75"),
        ({"product": "MIS"}, "its product is MIS, not NRML"),
        ({"tags": ("other-app",)}, "has the tag other-app of another program"),
        ({"order_timestamp": "2026-11-21 09:15:00"}, "before this one was sent"),
    ],
)
def test_what_cannot_be_its_order_is_not_adopted(changed: dict[str, Any], why: str) -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        scene.broker.book["78"] = broker_order(order_id="78", **changed)
        error = await refused(desk.adopt(NIGHT, task.task_id, "78", SURE))
        assert (error.code, error.value) == ("NOT_ADOPTED", "78")
        assert why in error.rule
        assert scene.now(task).state is TaskState.UNKNOWN

    play(scenario)


def test_the_order_of_another_task_is_not_adopted_by_tag_or_by_id() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        other = await scene.reaches(await scene.place(), TaskState.WORKING)
        task = await unknown(scene)
        assert other.broker_order_id
        error = await refused(desk.adopt(NIGHT, task.task_id, other.broker_order_id, SURE))
        assert f"the order of {other.client_order_id}" in error.rule
        scene.broker.change(other.broker_order_id, tags=())
        error = await refused(desk.adopt(NIGHT, task.task_id, other.broker_order_id, SURE))
        assert f"the order of {other.client_order_id}" in error.rule
        error = await refused(desk.adopt(NIGHT, task.task_id, "404", SURE))
        assert "must be an order of the broker's book" in error.rule

    play(scenario)


def test_of_two_who_adopt_one_order_for_two_tasks_one_does() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        first, second = await unknown(scene), await unknown(scene)
        scene.broker.book["79"] = broker_order(order_id="79")
        results: list[str] = []

        async def adopt(task: OrderTask) -> None:
            try:
                results.append((await desk.adopt(NIGHT, task.task_id, "79", SURE)).state)
            except OrderRefused as error:
                results.append(error.code)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(adopt(first))
            tasks.create_task(adopt(second))
        assert sorted(results) == ["NOT_ADOPTED", "WORKING"]

    play(scenario)


def test_a_person_says_not_placed_when_nothing_speaks_against_it() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await manual(scene)
        error = await refused(desk.mark_not_placed(NIGHT, task.task_id, SURE))
        assert (error.code, "what may be it: 77" in error.rule) == ("BOOK_SPEAKS_AGAINST", True)
        del scene.broker.book["77"]
        ended = await desk.mark_not_placed(NIGHT, task.task_id, SURE)
        assert (ended.state, ended.reason_code) == (TaskState.NOT_PLACED, "MARKED_NOT_PLACED")

    play(scenario)


def test_while_an_order_may_still_surface_only_force_calls_it_not_placed() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        (letter,) = await desk.letters(NIGHT, None)
        error = await refused(desk.mark_not_placed(NIGHT, task.task_id, SURE))
        assert f"until {from_instant_ns(letter.not_before_ns or 0):%H:%M:%S} IST" in error.rule
        scene.broker.is_down = True
        error = await refused(desk.mark_not_placed(NIGHT, task.task_id, SURE))
        assert "cannot be read: told to be down" in error.rule
        ended = await desk.mark_not_placed(NIGHT, task.task_id, FORCED)
        assert ended.state is TaskState.NOT_PLACED
        (line,) = dead_letter.audit_lines(await scene.journal.events_of(task.task_id, limit=9))
        assert (line.facts["forced"], "told to be down" in str(line.facts["against"])) == (
            True,
        ) * 2

    play(scenario)


def test_what_surfaces_after_it_was_called_not_placed_is_taken_for_it_all_the_same() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        order_id = f"{1:015d}"
        scene.broker.hidden.add(order_id)
        task = await unknown(scene, arrives=True)
        await desk.mark_not_placed(NIGHT, task.task_id, FORCED)
        scene.broker.hidden.clear()
        assert (await scene.reaches(task, TaskState.WORKING)).broker_order_id == order_id

    play(scenario)


def test_a_resend_is_one_new_order_of_the_same_principal_that_names_the_old_one() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        await desk.mark_not_placed(NIGHT, task.task_id, FORCED)
        first = await desk.resend(NIGHT, task.task_id, "again", SURE)
        second = await desk.resend(NIGHT, task.task_id, "again", SURE)
        assert (first.is_new, second.is_new) == (True, False)
        assert first.task.task_id == second.task.task_id
        assert (first.task.principal, first.task.body) == (task.principal, to_fields(BUY))
        error = await refused(desk.resend(NIGHT, task.task_id, "once-more", SURE))
        assert (error.code, "resent as again" in error.rule) == ("RESENT_ALREADY", True)
        await scene.reaches(first.task, TaskState.WORKING)
        assert len(scene.broker.book) == 1
        case = await desk.case(NIGHT, task.task_id)
        assert case.resent_as is not None
        assert case.resent_as.task_id == first.task.task_id
        assert case.letter.actions == (DeskAction.ADOPT,)
        assert [line.event for line in case.audit] == ["marked_not_placed", "received"]
        assert case.audit[-1].facts["resend_of"] == str(task.task_id)

    play(scenario)


def test_only_the_last_of_an_order_that_went_on_elsewhere_is_resent() -> None:
    scene = GroupScene(moves_on_margin=True)
    only_main = Caller(principal="night-desk", accounts=frozenset({MAIN}))

    async def scenario() -> None:
        desk = scene.front.dead_letters
        for each in scene.scenes.values():
            no = Answer(reply=refusal(400, "MarginException"), takes_effect=False)
            each.broker.answers.append(no)
        former = await scene[MAIN].reaches(await scene.place("a"), TaskState.REJECTED)
        latter = (await scene.journal.lineage(former))[-1]
        await scene[SPARE].reaches(latter, TaskState.REJECTED)
        letters = {each.task.account: each for each in await desk.letters(NIGHT, None)}
        assert letters[MAIN].actions == (DeskAction.ADOPT,)
        goes_on = f"goes on as task {str(latter.task_id)[:8]} on SPARE, which is REJECTED"
        assert letters[MAIN].happens.startswith(goes_on)
        assert DeskAction.RESEND in letters[SPARE].actions
        # Who may not know of SPARE is not told its name.
        (letter,) = await desk.letters(only_main, None)
        assert "SPARE" not in letter.happens
        why = await refused(desk.resend(NIGHT, former.task_id, "a-again", FORCED))
        assert (why.code, "goes on as" in why.rule) == ("NOT_POSSIBLE", True)
        again = await desk.resend(NIGHT, latter.task_id, "a-again", SURE)
        await scene[SPARE].reaches(again.task, TaskState.WORKING)
        assert [len(each.broker.book) for each in scene.scenes.values()] == [0, 1]

    async def played() -> None:
        async with scene.opened():
            await scenario()

    virtual_time.run(played())


def test_an_order_that_is_adopted_although_another_went_on_for_it_halts_both_accounts() -> None:
    scene = GroupScene(moves_on_margin=True)

    async def scenario() -> None:
        no = Answer(reply=refusal(400, "MarginException"), takes_effect=False)
        scene[MAIN].broker.answers.append(no)
        former = await scene[MAIN].reaches(await scene.place("a"), TaskState.REJECTED)
        scene[MAIN].broker.book["77"] = broker_order(order_id="77")
        await scene.front.dead_letters.adopt(NIGHT, former.task_id, "77", SURE)
        for each in scene.scenes.values():
            assert [halt.code for halt in each.halts.standing()] == [HaltCode.UNSENT_AT_BROKER]

    async def played() -> None:
        async with scene.opened():
            await scenario()

    virtual_time.run(played())


def test_a_resend_under_a_name_that_is_taken_changes_nothing() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        other = await scene.reaches(await scene.place(), TaskState.WORKING)
        task = await unknown(scene)
        await desk.mark_not_placed(NIGHT, task.task_id, FORCED)
        error = await refused(desk.resend(NIGHT, task.task_id, other.client_order_id, SURE))
        assert error.code == "IDEMPOTENCY_CONFLICT"
        assert len(scene.broker.sent) == 2

    play(scenario)


def test_a_manual_order_is_resent_only_against_nothing_or_by_force() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await manual(scene)
        error = await refused(desk.resend(NIGHT, task.task_id, "again", SURE))
        assert error.code == "BOOK_SPEAKS_AGAINST"
        assert (await desk.resend(NIGHT, task.task_id, "again", FORCED)).is_new

    play(scenario)


def test_nothing_in_doubt_or_on_its_way_is_resent_and_nothing_being_sent_is_decided() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        error = await refused(desk.resend(NIGHT, task.task_id, "again", FORCED))
        assert (error.code, "PLACE that is UNKNOWN" in error.rule) == ("NOT_POSSIBLE", True)
        held = asyncio.Event()
        scene.broker.on_sent = lambda _: held.wait()  # type: ignore[assignment,return-value]  # waits
        under_way = await scene.reaches(await scene.place(), TaskState.SENDING)
        for work in (
            desk.mark_not_placed(NIGHT, under_way.task_id, FORCED),
            desk.resend(NIGHT, under_way.task_id, "again", FORCED),
            desk.adopt(NIGHT, under_way.task_id, "1", SURE),
        ):
            assert (await refused(work)).code == "NOT_POSSIBLE"
        held.set()

    play(scenario)


@pytest.mark.parametrize("state", sorted(TaskState))
def test_only_what_is_lost_or_failed_has_actions(state: TaskState) -> None:
    from order_scene import task  # noqa: PLC0415 - shadows the tests' own name

    fits = {
        TaskState.UNKNOWN: {DeskAction.ADOPT, DeskAction.NOT_PLACED},
        TaskState.MANUAL: {DeskAction.ADOPT, DeskAction.NOT_PLACED, DeskAction.RESEND},
    } | {each: {DeskAction.ADOPT, DeskAction.RESEND} for each in FAILED}
    assert set(dead_letter.actions_for(task(state=state))) == fits.get(state, set())
    known = dead_letter.actions_for(task(state=state, broker_order_id="1"))
    was_there = {each: {DeskAction.RESEND} for each in FAILED} | {
        TaskState.MANUAL: {DeskAction.CLOSE}
    }
    assert set(known) == was_there.get(state, set())
    filled = task(state=state, filled_quantity=5)
    assert DeskAction.RESEND not in dead_letter.actions_for(filled)
    about = task(state=state, kind=TaskKind.CANCEL)
    assert dead_letter.actions_for(about) == ()
    assert state in TERMINAL or DeskAction.RESEND not in dead_letter.actions_for(task(state=state))


async def outlived(scene: Scene, *, filled: int = 0) -> OrderTask:
    """Return an order whose day ended before its end was seen, part of it filled before."""
    placed = await scene.reaches(await scene.place(), TaskState.WORKING)
    if filled:
        (order_id,) = scene.broker.book
        price = Decimal("99.50")
        scene.broker.change(order_id, filled_quantity=filled, average_price=price)
        await scene.reaches(placed, TaskState.PARTIAL)
    scene.broker.book.clear()
    scene.pass_days(1)
    ended = await scene.reaches(placed, TaskState.MANUAL)
    assert (ended.reason_code, ended.filled_quantity) == ("DAY_OVER", filled)
    return ended


def test_an_order_whose_day_is_over_is_closed_as_a_person_read_it_and_the_audit_says_so() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await outlived(scene, filled=25)
        (letter,) = await desk.letters(NIGHT, None)
        assert letter.actions == (DeskAction.CLOSE,)
        ending = Ending(
            state=TaskState.CANCELLED, filled_quantity=50, average_price=Decimal("99.75")
        )
        closed = await desk.close(NIGHT, task.task_id, ending, SURE)
        assert (closed.state, closed.reason_code) == (TaskState.CANCELLED, "CLOSED_BY_PERSON")
        assert (closed.filled_quantity, closed.average_price) == (50, Decimal("99.75"))
        assert await desk.letters(NIGHT, None) == []
        (line,) = (await desk.case(NIGHT, task.task_id)).audit
        assert (line.event, line.by_whom, line.why) == (
            "closed_by_person",
            "night-desk",
            "looked at Kite",
        )
        error = await refused(desk.close(NIGHT, task.task_id, ending, SURE))
        assert error.code == "NOT_POSSIBLE"
        assert len(scene.broker.sent) == 1

    play(scenario)


@pytest.mark.parametrize(
    ("ending", "field"),
    [
        (Ending(state=TaskState.WORKING), "state"),
        (Ending(state=TaskState.CANCELLED, filled_quantity=24), "filled_quantity"),
        (Ending(state=TaskState.CANCELLED, filled_quantity=75), "filled_quantity"),
        (Ending(state=TaskState.REJECTED, filled_quantity=25), "filled_quantity"),
        (Ending(state=TaskState.FILLED, filled_quantity=74), "filled_quantity"),
        (Ending(state=TaskState.FILLED, filled_quantity=76), "filled_quantity"),
        (Ending(state=TaskState.FILLED, filled_quantity=75), "average_price"),
        (
            Ending(state=TaskState.FILLED, filled_quantity=75, average_price=Decimal(0)),
            "average_price",
        ),
        (
            Ending(state=TaskState.CANCELLED, filled_quantity=25, average_price=Decimal(99)),
            "average_price",
        ),
    ],
    ids=str,
)
def test_no_word_of_a_person_goes_against_what_the_broker_showed(
    ending: Ending, field: str
) -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await outlived(scene, filled=25)
        error = await refused(desk.close(NIGHT, task.task_id, ending, FORCED))
        assert (error.code, error.field) == ("INVALID_FIELD", field)
        assert scene.now(task) == task

    play(scenario)


def test_a_price_without_a_fill_is_refused_and_a_changed_quantity_counts() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        placed = await scene.reaches(await scene.place(), TaskState.WORKING)
        await scene.reaches(await scene.modify(placed, quantity="150"), TaskState.ACKED)
        scene.broker.book.clear()
        scene.pass_days(1)
        task = await scene.reaches(placed, TaskState.MANUAL)
        price = Decimal("100.00")
        ending = Ending(state=TaskState.CANCELLED, average_price=price)
        error = await refused(desk.close(NIGHT, task.task_id, ending, SURE))
        assert error.field == "average_price"
        whole = Ending(state=TaskState.FILLED, filled_quantity=150, average_price=price)
        closed = await desk.close(NIGHT, task.task_id, whole, SURE)
        assert (closed.state, closed.filled_quantity) == (TaskState.FILLED, 150)

    play(scenario)


def test_what_the_book_still_shows_is_not_closed_and_an_unread_book_takes_force() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await outlived(scene)
        nothing = Ending(state=TaskState.CANCELLED)
        row = broker_order(order_id=task.broker_order_id, tags=(task.tag,))
        # So soon that the desk has not read it itself.
        scene.broker.book[row.order_id] = row
        error = await refused(desk.close(NIGHT, task.task_id, nothing, FORCED))
        assert (error.code, "shows it as OPEN" in error.rule) == ("BOOK_SPEAKS_AGAINST", True)
        del scene.broker.book[row.order_id]
        scene.broker.is_down = True
        error = await refused(desk.close(NIGHT, task.task_id, nothing, SURE))
        assert (error.code, "cannot be read" in error.rule) == ("BOOK_SPEAKS_AGAINST", True)
        closed = await desk.close(NIGHT, task.task_id, nothing, FORCED)
        assert (closed.state, closed.average_price) == (TaskState.CANCELLED, None)

    play(scenario)


def test_a_task_of_an_account_that_is_not_the_caller_s_is_not_there() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        stranger = Caller(principal="night-desk", accounts=frozenset({"OTHER"}))
        assert await desk.letters(stranger, None) == []
        assert (await refused(desk.letters(stranger, ACCOUNT))).code == "UNKNOWN_ACCOUNT"
        assert (await refused(desk.case(stranger, task.task_id))).code == "UNKNOWN_TASK"
        error = await refused(desk.mark_not_placed(stranger, task.task_id, FORCED))
        assert error.code == "UNKNOWN_TASK"
        assert (await refused(desk.case(NIGHT, uuid.uuid4()))).code == "UNKNOWN_TASK"

    play(scenario)


def test_a_daemon_that_stands_by_decides_nothing() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        scene.journal.lose_writer(Account(ACCOUNT))
        error = await refused(desk.mark_not_placed(NIGHT, task.task_id, FORCED))
        assert error.code == "ACCOUNT_NOT_OPEN"

    async def played() -> None:
        scene = Scene()
        try:
            async with scene.opened():
                await scenario(scene, desk_of(scene))
        except* Exception:  # noqa: BLE001, S110 - the desk gives its account up
            pass

    virtual_time.run(played())


def test_an_order_with_its_own_tag_in_the_book_is_never_called_not_placed_unforced() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        tag = tag_of(scene.config.installation, task.task_id, 1)
        scene.broker.book["80"] = broker_order(order_id="80", tags=(tag,))
        error = await refused(desk.mark_not_placed(NIGHT, task.task_id, SURE))
        assert "the book holds it" in error.rule

    play(scenario)


def orphan(scene: Scene, order_id: str, number: int, **changed: Any) -> str:
    """Put an order with a tag of ours into the book that no task explains; return the tag."""
    tag = tag_of(scene.config.installation, uuid.UUID(int=number), 1)
    scene.broker.book[order_id] = broker_order(order_id=order_id, tags=(tag,), **changed)
    return tag


def test_the_last_orphan_that_is_adopted_lifts_the_halt_and_all_are_worked_like_any_other() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        orphan(scene, "90", 900)
        tag = orphan(scene, "91", 901, filled_quantity=25, average_price=BUY.price)
        scene.desk.want_book()
        await scene.until(scene.halts.standing)
        first = await desk.adopt_orphan(
            NIGHT, ACCOUNT, "90", client_order_id="found-1", decision=SURE
        )
        assert (first.state, first.principal, first.attempt) == (TaskState.WORKING, "night-desk", 1)
        await asyncio.sleep(3.0)
        assert [halt.code for halt in scene.halts.standing()] == ["ORPHAN_ORDER"]
        second = await desk.adopt_orphan(
            NIGHT, ACCOUNT, "91", client_order_id="found-2", decision=SURE
        )
        assert (second.state, second.filled_quantity, second.tag) == (TaskState.PARTIAL, 25, tag)
        await scene.until(lambda: not scene.halts.standing(), within_s=5)
        scene.broker.change("91", status="COMPLETE", filled_quantity=75)
        await scene.reaches(second, TaskState.FILLED)
        await scene.cancel(first)
        await scene.reaches(first, TaskState.CANCELLED)
        await scene.reaches(await scene.place(), TaskState.WORKING)
        await asyncio.sleep(2 * scene.config.book_poll_idle_s)
        assert scene.halts.standing() == ()
        assert len(scene.broker.sent_tags()) == 1
        (line,) = (await desk.case(NIGHT, first.task_id)).audit
        assert (line.event, line.by_whom) == ("orphan_adopted", "night-desk")

    play(scenario)


def test_an_orphan_is_adopted_once_and_only_an_orphan_is() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        ours = await scene.reaches(await scene.place(), TaskState.WORKING)
        scene.broker.book["92"] = broker_order(order_id="92")
        orphan(scene, "93", 930)

        async def adopt(order_id: str) -> OrderTask:
            return await desk.adopt_orphan(
                NIGHT, ACCOUNT, order_id, client_order_id="x", decision=SURE
            )

        for order_id in ("92", ours.broker_order_id or "", "404"):
            assert (await refused(adopt(order_id))).code == "NOT_ADOPTED"
        await adopt("93")
        assert "one of the 0 orphans" in (await refused(adopt("93"))).rule
        orphan(scene, "94", 940)
        assert (await refused(adopt("94"))).code == "IDEMPOTENCY_CONFLICT"
        orphan(scene, "95", 950, product="NEW")
        assert "a word that is not known here" in (await refused(adopt("95"))).rule

    play(scenario)


def test_an_orphan_that_a_person_says_is_a_lost_task_s_order_is_that_and_lifts_the_halt() -> None:
    async def scenario(scene: Scene, desk: DeadLetters) -> None:
        task = await unknown(scene)
        orphan(scene, "95", 950)
        scene.desk.want_book()
        await scene.until(scene.halts.standing)
        await desk.adopt(NIGHT, task.task_id, "95", SURE)
        await scene.until(lambda: not scene.halts.standing(), within_s=5)
        scene.broker.change("95", status="COMPLETE", filled_quantity=75, average_price=BUY.price)
        await scene.reaches(task, TaskState.FILLED)
        await asyncio.sleep(2 * scene.config.book_poll_idle_s)
        assert scene.halts.standing() == ()

    play(scenario)
