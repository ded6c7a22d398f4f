"""Two accounts of a group at virtual time: what fails over is at one broker at most (I8)."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from sim_pair import play_pair

from ticker_service.accounts.failover import Evidence, Ruling
from ticker_service.domain import order_state
from ticker_service.domain.order_state import TaskState
from ticker_service.orders import failover
from ticker_service.orders.dispatch import Dispatcher, Hindrance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim_play import Outcome

    from ticker_service.domain.order import OrderTask

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "160")) // 2
PLANT_SEEDS_MAX = 200


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Say nothing: a play logs thousands of lines."""
    with structlog.testing.capture_logs():
        yield


def judge(seeds: range) -> list[Outcome]:
    outcomes = [play_pair(seed) for seed in seeds]
    failed = {each.seed: each.violations for each in outcomes if each.violations}
    assert not failed, failed
    return outcomes


def test_no_seed_of_two_accounts_breaks_a_promise() -> None:
    outcomes = judge(range(SEEDS))
    met: Counter[str] = sum((each.met for each in outcomes), Counter())
    ends = Counter(task.state for each in outcomes for task in each.records.tasks)
    # They fail over, and die on the way.
    assert met["commit_hand_over"] > SEEDS // 8, met
    assert ends[TaskState.FAILED_OVER], ends
    assert ends[TaskState.FILLED], ends


def test_the_verdict_notices_that_what_may_be_at_a_broker_is_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = Dispatcher._elsewhere

    async def moves_the_unknown(
        dispatcher: Dispatcher, task: OrderTask, *, tried: int
    ) -> OrderTask:
        if task.state is TaskState.UNKNOWN and task.account_group and dispatcher.failover:
            doubt = Hindrance(evidence=Evidence.NOT_SENT, reason="PLANTED")
            return await dispatcher.failover.consider(task, doubt)
        return await elsewhere(dispatcher, task, tried=tried)

    def allows(*_: Any) -> Ruling:
        return Ruling(moves=True, code="PLANTED")

    legal = order_state.TRANSITIONS[TaskState.UNKNOWN] | {TaskState.FAILED_OVER}
    monkeypatch.setattr(Dispatcher, "_elsewhere", moves_the_unknown)
    monkeypatch.setattr(failover, "judge", allows)
    monkeypatch.setitem(order_state.TRANSITIONS, TaskState.UNKNOWN, legal)
    named: set[str] = set()
    for seed in range(PLANT_SEEDS_MAX):
        named |= {sentence.split(":")[0] for sentence in play_pair(seed).violations}
        if "I8" in named:
            return
    raise AssertionError(f"{PLANT_SEEDS_MAX} seeds, and only {named}")
