"""Which order may go to another account, row by row of reliability.md §1.11 (I8)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from ticker_service.accounts.failover import Evidence, Ruling, Situation, Target, judge
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TaskState

S, E = TaskState, Evidence
OPENING = {"transaction_type": "BUY", "product": "NRML"}
FRESH = Situation(kind=TaskKind.PLACE, state=S.READY, body=OPENING, evidence=E.NEVER_SENT)
FIT = Target(is_of_group=True, is_held=True, is_open=True)


def test_an_opening_order_that_was_never_sent_may_move() -> None:
    assert judge(FRESH, FIT) == Ruling(moves=True, code="NEVER_SENT")


@pytest.mark.parametrize("evidence", [E.NOT_SENT, E.THROTTLED, E.REJECTED_AUTH, E.BREAKER_OPEN])
def test_one_whose_last_try_is_certainly_not_there_may_move(evidence: Evidence) -> None:
    assert judge(replace(FRESH, evidence=evidence), FIT).code == "CERTAINLY_NOT_THERE"


@pytest.mark.parametrize("state", [S.SENDING, S.UNKNOWN])
@pytest.mark.parametrize("evidence", list(Evidence))
def test_what_may_be_at_the_broker_never_moves_whatever_is_said_of_it(
    state: TaskState, evidence: Evidence
) -> None:
    assert not judge(replace(FRESH, state=state, evidence=evidence), FIT).moves


@pytest.mark.parametrize("kind", [TaskKind.MODIFY, TaskKind.CANCEL])
def test_changes_and_cancels_stay_with_their_order(kind: TaskKind) -> None:
    assert judge(replace(FRESH, kind=kind), FIT).code == "BOUND_TO_ITS_ORDER"


def test_what_closes_or_protects_a_position_stays_with_it() -> None:
    assert judge(replace(FRESH, reduces=True), FIT).code == "BOUND_TO_ITS_POSITION"


def test_a_sale_of_holdings_stays_where_they_are() -> None:
    body = {"transaction_type": "SELL", "product": "CNC"}
    assert judge(replace(FRESH, body=body), FIT).code == "BOUND_TO_ITS_HOLDINGS"
    assert judge(replace(FRESH, body=body | {"transaction_type": "BUY"}), FIT).moves


def test_a_leg_stays_with_the_others() -> None:
    assert judge(replace(FRESH, is_leg=True), FIT).code == "BOUND_TO_ITS_LEGS"


def test_a_refusal_for_margin_moves_by_consent_only() -> None:
    refused = replace(FRESH, state=S.REJECTED, evidence=E.MARGIN)
    assert not judge(refused, FIT).moves
    assert judge(replace(refused, moves_on_margin=True), FIT).moves


@pytest.mark.parametrize("lacks", ["is_of_group", "is_held", "is_open"])
def test_an_account_that_lacks_anything_is_no_target(lacks: str) -> None:
    assert not judge(FRESH, replace(FIT, **{lacks: False})).moves


def test_of_all_situations_only_unsent_orders_move_and_the_margin_by_consent() -> None:
    for kind, state, evidence, consent in itertools.product(
        TaskKind, TaskState, Evidence, (False, True)
    ):
        situation = replace(
            FRESH, kind=kind, state=state, evidence=evidence, moves_on_margin=consent
        )
        if judge(situation, FIT).moves:
            assert kind is TaskKind.PLACE
            by_margin = state is S.REJECTED and evidence is E.MARGIN and consent
            assert by_margin or (state is S.READY and evidence not in {E.NONE, E.MARGIN})
