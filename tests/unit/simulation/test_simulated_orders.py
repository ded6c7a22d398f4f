"""Exactly-once effect at virtual time: whatever dies, lies or comes late, every promise is kept.

A seed that fails is printed with the command that repeats it: `./scripts/simulate --seed N`.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import structlog
from running import ROOT
from sim_broker import MOODS
from sim_plants import PLANTS
from sim_play import FATAL, play

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exactly_once import Task
    from sim_play import Outcome

BLOCKS = 4
SEEDS_PER_BLOCK = int(os.environ.get("SIMULATION_SEEDS", "160")) // BLOCKS
PLANT_SEEDS_MAX = 400


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Say nothing: a play logs thousands of lines, and its story says more."""
    with structlog.testing.capture_logs():
        yield


def judge(seeds: range) -> list[Outcome]:
    outcomes = [play(seed) for seed in seeds]
    failed = {each.seed: each.violations for each in outcomes if each.violations}
    assert not failed, "; ".join(
        f"./scripts/simulate --seed {seed}: {found}" for seed, found in failed.items()
    )
    return outcomes


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_seed_breaks_a_promise(block: int) -> None:
    first = block * SEEDS_PER_BLOCK
    judge(range(first, first + SEEDS_PER_BLOCK))


@functools.cache
def some() -> list[Outcome]:
    return judge(range(1_000, 1_150))


def exits_of(outcome: Outcome) -> list[Task]:
    return outcome.records.kinds("EXIT")


def total(counters: Iterator[Counter[str]]) -> Counter[str]:
    return functools.reduce(lambda one, other: one + other, counters, Counter())


def test_the_plays_have_every_trouble_and_every_answer_in_them() -> None:
    met = total(outcome.met for outcome in some())
    expected = {f"mood_{mood.__name__.strip('_')}" for mood in MOODS}
    expected |= {"book_truncated", "book_null_tags", "book_late", "late_in_book", "standby"}
    expected |= {
        "basket",
        "sliced",
        "key_repeated",
        "key_in_conflict",
        "commit_late_or_unconfirmed",
    }
    expected |= {"reduced_under_a_switch", "exit", "exit_of_all", "exit_reduces"}
    expected |= {"another_hand_closed", "another_hand_opened", "another_hand_at_an_intent"}
    assert expected <= met.keys()
    kills = total(outcome.kills for outcome in some())
    assert set(FATAL) <= kills.keys()


def test_the_plays_bring_orders_to_every_end() -> None:
    ends = Counter((task.kind, task.state.value) for each in some() for task in each.records.tasks)
    for end in ("FILLED", "CANCELLED", "REJECTED", "NOT_PLACED", "WORKING", "PARTIAL", "EXPIRED"):
        assert ends["PLACE", end], ends
    for kind in ("MODIFY", "CANCEL"):
        for end in ("ACKED", "REJECTED", "NOT_PLACED"):
            assert ends[kind, end], ends
    assert ends["MODIFY", "EXPIRED"], ends
    for kind in ("BASKET", "SLICES"):
        assert ends[kind, "DONE"], ends
    assert ends["BASKET", "RUNNING"], ends
    exits = Counter((task.state.value, task.code) for each in some() for task in exits_of(each))
    assert exits["DONE", ""], exits
    assert {state for state, _ in exits} == {"DONE", "ESCALATED"}
    codes = {"EXIT_TIMED_OUT", "KILL_SWITCH", "LESS_THAN_A_LOT", "CANCELLED_BY_CALLER"}
    assert codes <= {code for _, code in exits}, exits
    placed = [task for each in some() for task in each.records.kinds("PLACE")]
    at_broker = sum(1 for task in placed if task.broker_order_id)
    assert at_broker > len(placed) / 2


def test_accounts_change_hands_while_orders_are_under_way() -> None:
    changed = 0
    for outcome in some():
        epochs = {attempt.writer_epoch for attempt in outcome.records.attempts}
        changed += len(epochs) > 1
    assert changed > len(some()) / 2


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_the_verdict_notices(plant: object, monkeypatch: pytest.MonkeyPatch) -> None:
    named: set[str] = set()
    for seed in range(PLANT_SEEDS_MAX):
        with monkeypatch.context() as patch:
            outcome = play(seed, plant=lambda a_play: plant(a_play, patch))
        named |= {sentence.split(":")[0] for sentence in outcome.violations}
        if named & PLANTS[plant]:
            return
    raise AssertionError(f"{PLANT_SEEDS_MAX} seeds, and only {named}")


def test_a_seed_tells_the_same_story_in_every_process() -> None:
    stories = []
    for number in ("1", "2"):
        told = subprocess.run(
            ["./scripts/simulate", "--seed", "77", "--story"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            check=True,
            text=True,
        )
        stories.append(told.stdout)
    assert len(stories[0].splitlines()) > 20
    assert stories[0] == stories[1]
