"""Faults that are built in on purpose, to see that the verdict notices each.

A plant breaks one promise of the daemon, or of what stands in for its database, and says by which
invariants it is to be found.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import sim_play
from sim_broker import Line
from sim_journal import JournalLine

from ticker_service import testing
from ticker_service.domain import exit as exit_rules
from ticker_service.domain import order_state
from ticker_service.domain.exposure import Exposure
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState
from ticker_service.orders import basket, classify, exits, holds, slices
from ticker_service.orders.book import BookKeeper
from ticker_service.orders.classify import Outcome
from ticker_service.orders.dispatch import Dispatcher
from ticker_service.orders.holds import Holds
from ticker_service.orders.outcomes import Outcomes
from ticker_service.orders.positions import Look, Positions
from ticker_service.orders.reconcile import Reconciler
from ticker_service.orders.settle import Evidence

if TYPE_CHECKING:
    import pytest
    from sim_play import Play

    from ticker_service.domain.order import Account, NewTask, OrderTask, TaskUpdate
    from ticker_service.orders.classify import Verdict
    from ticker_service.ports import Admitted, Reply

Plant = "Callable[[Play, pytest.MonkeyPatch], None]"


class _TwiceLine(Line):
    async def _send(self, *arguments: Any) -> Reply:
        await super()._send(*arguments)
        return await super()._send(*arguments)


def sends_twice(play: Play, _: pytest.MonkeyPatch) -> None:
    """The client repeats a POST by itself, as many do."""
    play.line = _TwiceLine


def sends_again_in_doubt(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A timeout is taken for a no."""
    patch.setitem(classify.STATE_AFTER, Outcome.AMBIGUOUS, TaskState.READY)


def believes_every_400(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A 400 is a refusal, whatever it says."""
    unsure = {"ORDER_TIMED_OUT", "BROKER_UNSURE"}
    patch.setattr(classify, "TABLE", tuple(r for r in classify.TABLE if r.code not in unsure))


class _ForgetfulJournal(JournalLine):
    async def admit(self, new: NewTask) -> Admitted:
        admitted = await super().admit(new)
        if self.process.world.happens(0.2):
            self.tasks.pop(admitted.task.task_id, None)
        return admitted


def forgets_acknowledged(play: Play, _: pytest.MonkeyPatch) -> None:
    """A commit is confirmed and is not durable."""
    play.journal_line = _ForgetfulJournal


class _HastyJournal(JournalLine):
    async def claim(self, task: OrderTask, **intent: Any) -> OrderTask:
        return dataclasses.replace(
            task,
            state=TaskState.SENDING,
            attempt=task.attempt + 1,
            tag=intent["tag"],
            send_not_after_ns=intent["send_not_after_ns"],
        )


def sends_before_its_intent(play: Play, _: pytest.MonkeyPatch) -> None:
    """The intent is not committed when the request leaves."""
    play.journal_line = _HastyJournal


class _UnfencedJournal(JournalLine):
    async def claim(self, task: OrderTask, **intent: Any) -> OrderTask:
        kept = self.shared.epochs[task.account]
        self.shared.epochs[task.account] = intent["writer_epoch"]
        try:
            return await super().claim(task, **intent)
        finally:
            self.shared.epochs[task.account] = max(kept, self.shared.epochs[task.account])


def does_not_fence_writers(play: Play, _: pytest.MonkeyPatch) -> None:
    """The journal takes intents from a writer whom another has superseded."""
    play.journal_line = _UnfencedJournal


def sends_after_its_window(_: Play, patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the clock between the intent and the send."""
    patch.setattr(Holds, "held_at_the_last", lambda *_, **__: "")


def proves_absence_too_soon(play: Play, _: pytest.MonkeyPatch) -> None:
    """An order that is not in the first book is called not placed."""
    play.config = dataclasses.replace(play.config, settle_after_s=0.0, settle_reads_min=1)


def believes_short_books(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A book that lacks known orders proves the absence of others."""
    judge = Evidence.judge_place

    def believing(*arguments: Any, **said: Any) -> TaskUpdate | None:
        return judge(*arguments, **{**said, "is_whole": True})

    patch.setattr(Evidence, "judge_place", believing)


def does_not_merge(_: Play, patch: pytest.MonkeyPatch) -> None:
    """What the broker tells is not written down."""

    async def nothing(*_: object) -> bool:
        return False

    patch.setattr(Reconciler, "_merge", nothing)


def lets_the_last_row_win(_: Play, patch: pytest.MonkeyPatch) -> None:
    """Rows are believed in their order of arrival."""

    def told(_: OrderTask, said: TaskState, *, grows: bool) -> TaskState:
        return said

    patch.setattr(order_state, "_later", told)
    everything = frozenset(TaskState)
    patch.setattr(order_state, "TRANSITIONS", dict.fromkeys(TaskState, everything))
    patch.setattr(testing, "TRANSITIONS", dict.fromkeys(TaskState, everything))


def ignores_other_bodies(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A key that was used for something else is answered as if it said the same."""
    patch.setattr(testing, "says_the_same", lambda *_: True)


def skips_events(play: Play, _: pytest.MonkeyPatch) -> None:
    """The cursor of delivery runs ahead of what was delivered."""

    class Skipping(JournalLine):
        async def set_delivered(self, account: Account, sink: str, account_seq: int) -> None:
            await super().set_delivered(account, sink, account_seq + 1)

    play.journal_line = Skipping


def calls_lost_cancels_done(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A cancel without an answer is held for done."""
    judge = classify.judge

    def lenient(kind: TaskKind, reply: Reply) -> Verdict:
        verdict = judge(kind, reply)
        if kind is TaskKind.CANCEL and verdict.outcome is Outcome.AMBIGUOUS:
            return dataclasses.replace(verdict, outcome=Outcome.ACKED)
        return verdict

    patch.setattr(classify, "judge", lenient)


def drops_the_yes(_: Play, patch: pytest.MonkeyPatch) -> None:
    """The broker's yes is heard and not written down."""
    record = Outcomes.record

    async def dropping(
        self: Outcomes, claimed: OrderTask, verdict: Verdict, reply: Reply
    ) -> OrderTask | None:
        if verdict.outcome is Outcome.ACKED:
            return claimed
        return await record(self, claimed, verdict, reply)

    patch.setattr(Outcomes, "record", dropping)


def takes_a_yes_for_silence(_: Play, patch: pytest.MonkeyPatch) -> None:
    """The broker's yes is taken for a request that never left, so the order is sent again."""
    patch.setitem(classify.STATE_AFTER, Outcome.ACKED, TaskState.READY)


def does_not_doubt_after_a_restart(_: Play, patch: pytest.MonkeyPatch) -> None:
    """What an earlier run was sending is left as it was."""

    async def nothing(_: BookKeeper) -> None:
        return

    patch.setattr(BookKeeper, "_doubt_what_nobody_sends", nothing)


def sends_what_was_being_sent(play: Play, _: pytest.MonkeyPatch) -> None:
    """After a restart what was being sent is sent."""

    class Repeating(JournalLine):
        async def acquire(self, account: Account) -> int:
            epoch = await super().acquire(account)
            for task in await self.in_doubt(account):
                if task.state is TaskState.SENDING:
                    again = dataclasses.replace(task, state=TaskState.READY)
                    self._append(again, "taken_up_again", {})
            return epoch

    play.journal_line = Repeating


def lets_changes_overtake(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A change is sent while an earlier one of its order is in doubt."""
    patch.setattr(Dispatcher, "_waits_its_turn", lambda *_: False)


def does_not_look_at_kill_switches_last(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A switch is looked at when an order is admitted, and not again before its first byte."""
    patch.setattr(Holds, "is_stopped", lambda *_, **__: False)


def takes_all_for_reducing(_: Play, patch: pytest.MonkeyPatch) -> None:
    """Where only what reduces a position may leave, everything is held for that."""

    patch.setattr(Positions, "not_reducing", _says_nothing)


def does_not_follow_its_writes(_: Play, patch: pytest.MonkeyPatch) -> None:
    """What is open is read once, and then only what comes in is added."""
    patch.setattr(Exposure, "moved", _unheard)


def _unheard(_: Exposure, __: OrderTask) -> None:
    return


def cuts_too_much(_: Play, patch: pytest.MonkeyPatch) -> None:
    """The slices of an order come to more than it, and nobody sums them before they leave."""
    cut = slices.cut

    def one_more(*arguments: Any) -> list[int]:
        quantities = cut(*arguments)
        return [*quantities, quantities[-1]]

    patch.setattr(slices, "cut", one_more)
    patch.setattr(holds, "excess", lambda *_: "")


def sells_before_it_has_bought(_: Play, patch: pytest.MonkeyPatch) -> None:
    """The legs of a basket leave in any order, whatever was asked."""
    patch.setattr(basket, "_gate", lambda *_: basket._Gate.NOW)


def forgets_that_a_leg_failed(_: Play, patch: pytest.MonkeyPatch) -> None:
    """A basket that is to be taken back as a whole goes on after a failure."""
    patch.setattr(basket, "has_failed", lambda _: False)


def does_not_look_last_at_what_an_exit_closes(_: Play, patch: pytest.MonkeyPatch) -> None:
    """What is held is read when an exit's order is planned, and not again before its first byte."""
    look = Holds.unreducing

    async def looks(self: Holds, *arguments: Any, is_last: bool = False) -> str:
        return "" if is_last else await look(self, *arguments)

    patch.setattr(Holds, "unreducing", looks)


def closes_twice_what_is_held(_: Play, patch: pytest.MonkeyPatch) -> None:
    """An exit's orders are twice as large as they may be, and nobody holds them back."""
    cut = exit_rules.cut

    def twice(quantity: int, **limits: Any) -> list[int]:
        return cut(2 * quantity, **limits)

    patch.setattr(exit_rules, "cut", twice)
    patch.setattr(Holds, "unreducing", _says_nothing)


def closes_again_what_is_being_closed(_: Play, patch: pytest.MonkeyPatch) -> None:
    """What is under way to close a position is not counted, in the plan and before the send."""
    patch.setattr(Look, "_ours", lambda *_: ())


def calls_every_position_flat(_: Play, patch: pytest.MonkeyPatch) -> None:
    """An exit ends as done while something is held."""
    patch.setattr(Look, "is_flat", lambda *_: True)


def leaves_its_orders_behind(_: Play, patch: pytest.MonkeyPatch) -> None:
    """An exit whose time is over does not wait for its orders to end."""

    over = exit_rules.LegMoves(is_over=True)
    patch.setattr(exits, "ending_moves", lambda *_: over)


def never_ends_an_exit(_: Play, patch: pytest.MonkeyPatch) -> None:
    """An exit looks at no clock."""
    patch.setattr(sim_play, "PEACE_S_MAX", 120.0)
    patch.setattr(exits.Exits, "_halts", lambda *_: None)


async def _says_nothing(*_: object, **__: object) -> str:
    return ""


PLANTS: Final[dict[Any, set[str]]] = {
    sends_twice: {"I1", "I4"},
    sends_again_in_doubt: {"I1"},
    believes_every_400: {"I1"},
    forgets_acknowledged: {"I3"},
    sends_before_its_intent: {"I4"},
    does_not_fence_writers: {"I6"},
    sends_after_its_window: {"I6"},
    proves_absence_too_soon: {"I1"},
    believes_short_books: {"I1"},
    does_not_merge: {"I5"},
    lets_the_last_row_win: {"I5", "I7"},
    ignores_other_bodies: {"I2"},
    skips_events: {"I9"},
    calls_lost_cancels_done: {"I5"},
    drops_the_yes: {"I5"},
    takes_a_yes_for_silence: {"I1"},
    does_not_doubt_after_a_restart: {"I3"},
    sends_what_was_being_sent: {"I1"},
    lets_changes_overtake: {"I5"},
    does_not_look_at_kill_switches_last: {"I12"},
    cuts_too_much: {"I13"},
    sells_before_it_has_bought: {"I18"},
    forgets_that_a_leg_failed: {"I18"},
    does_not_look_last_at_what_an_exit_closes: {"I19"},
    closes_twice_what_is_held: {"I19"},
    closes_again_what_is_being_closed: {"I19"},
    calls_every_position_flat: {"I19"},
    leaves_its_orders_behind: {"I19"},
    never_ends_an_exit: {"I19"},
    takes_all_for_reducing: {"I12"},
    does_not_follow_its_writes: {"I13"},
}
"""Each plant, and the invariants of which one at least has to be named."""
