"""The source of a forward: the best that speaks, taken at once, left late, regained later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.market.forward_source import (
    PATIENCE_NS,
    SETTLING_NS,
    ForwardSource,
    SourceChoice,
)

NONE, PARITY, FUTURE, SPOT = ForwardSource
SECOND_NS = 10**9
START_NS = 1_795_000_000 * SECOND_NS


class Scene:
    def __init__(self) -> None:
        self.choice = SourceChoice()
        self.now_ns = START_NS

    def hear(self, *speaking: ForwardSource, for_s: float = 0.0) -> ForwardSource:
        """Let sources speak at every tenth of a second; return the choice at the end."""
        end_ns = self.now_ns + int(for_s * SECOND_NS)
        while self.now_ns < end_ns:
            self.choice.choose(speaking, self.now_ns)
            self.now_ns += SECOND_NS // 10
        return self.choice.choose(speaking, self.now_ns)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_before_anybody_speaks_there_is_no_source(scene: Scene) -> None:
    assert scene.hear() is NONE


def test_at_the_start_every_better_source_is_taken_at_once(scene: Scene) -> None:
    heard = [scene.hear(SPOT), scene.hear(FUTURE, SPOT), scene.hear(PARITY, FUTURE, SPOT)]
    assert heard == [SPOT, FUTURE, PARITY]


def test_a_source_that_falls_silent_is_waited_for(scene: Scene) -> None:
    scene.hear(PARITY, FUTURE)
    assert scene.hear(FUTURE, for_s=PATIENCE_NS / SECOND_NS) is PARITY


def test_after_the_wait_the_next_best_is_read(scene: Scene) -> None:
    scene.hear(PARITY, FUTURE, SPOT)
    assert scene.hear(FUTURE, SPOT, for_s=PATIENCE_NS / SECOND_NS + 0.2) is FUTURE


def test_a_lost_source_is_read_again_only_after_it_has_settled(scene: Scene) -> None:
    scene.hear(PARITY, FUTURE)
    scene.hear(FUTURE, for_s=2.0)
    settling_s = SETTLING_NS / SECOND_NS
    heard = [
        scene.hear(PARITY, FUTURE, for_s=settling_s - 0.1),
        scene.hear(PARITY, FUTURE, for_s=0.2),
    ]
    assert heard == [FUTURE, PARITY]


def test_a_break_while_it_settles_starts_the_count_again(scene: Scene) -> None:
    scene.hear(PARITY, FUTURE)
    scene.hear(FUTURE, for_s=2.0)
    scene.hear(PARITY, FUTURE, for_s=4.0)
    scene.hear(FUTURE)
    scene.now_ns += SECOND_NS // 10
    assert scene.hear(PARITY, FUTURE, for_s=4.0) is FUTURE


def test_a_lost_source_is_read_at_once_when_no_other_speaks(scene: Scene) -> None:
    scene.hear(PARITY, FUTURE)
    scene.hear(FUTURE, for_s=2.0)
    assert scene.hear(PARITY, for_s=PATIENCE_NS / SECOND_NS + 0.2) is PARITY


def test_when_nobody_speaks_the_choice_stands(scene: Scene) -> None:
    scene.hear(PARITY)
    assert scene.hear(for_s=60.0) is PARITY


sources = st.sets(st.sampled_from([PARITY, FUTURE, SPOT]))
pauses_ms = st.sampled_from([50, 250, 900, 1_100, 4_000, 6_000])


@given(st.lists(st.tuples(sources, pauses_ms), max_size=60))
def test_a_source_is_left_for_a_better_one_or_after_a_silence_that_lasted(
    script: list[tuple[set[ForwardSource], int]],
) -> None:
    choice, now_ns, heard_ns = SourceChoice(), START_NS, START_NS
    for speaking, pause_ms in script:
        now_ns += pause_ms * 10**6
        before = choice.source
        after = choice.choose(speaking, now_ns)
        if after is not before:
            assert after in speaking
            is_better = before in speaking and after < before
            assert before is NONE or is_better or now_ns - heard_ns > PATIENCE_NS
        if after in speaking:
            heard_ns = now_ns
