"""What each observation of one request proves; reliability.md §1.3 and kite.md §5 row by row."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.domain.halt import HaltCode
from ticker_service.domain.order import TaskKind
from ticker_service.domain.order_state import TRANSITIONS, TaskState
from ticker_service.orders.classify import (
    HALTING_CODES,
    MESSAGE_CHARACTERS_MAX,
    STATE_AFTER,
    TABLE,
    Outcome,
    judge,
)
from ticker_service.ports import Reply, Withheld

JSON = "application/json"


def answer(status: int, body: dict[str, Any] | None, content_type: str = JSON) -> Reply:
    return Reply(http_status=status, content_type=content_type, body=body)


def error(status: int, error_type: str | None, message: object = "no") -> Reply:
    return answer(
        status, {"status": "error", "error_type": error_type, "message": message, "data": None}
    )


def success(data: object, status: int = 200) -> Reply:
    return answer(status, {"status": "success", "data": data})


TIMED_OUT = "Order request timed out. Please check the order book and confirm before placing again."
CAP = "Maximum allowed order modifications exceeded."
DAY = "Maximum allowed order requests exceeded."
FUNDS = (
    "Insufficient funds. Required margin is 95417.84 but available margin is 74251.80. "
    "Check the orderbook for open orders."
)
STOCK = "Insufficient stock holding in INFY. Check the orderbook for open orders."
UNPROTECTED = "Market orders without market protection are not allowed via API."

ROWS = [
    # No answer.
    ("nothing_left", Reply(withheld=Withheld.NOTHING_LEFT), Outcome.NOT_SENT, "NOTHING_LEFT"),
    ("may_have_left", Reply(withheld=Withheld.MAY_HAVE_LEFT), Outcome.AMBIGUOUS, "NO_ANSWER"),
    ("neither", Reply(), Outcome.AMBIGUOUS, "UNFORESEEN"),
    (
        "withheld_after_a_status",
        Reply(http_status=400, withheld=Withheld.MAY_HAVE_LEFT),
        Outcome.AMBIGUOUS,
        "NO_ANSWER",
    ),
    # 2xx.
    ("acked", success({"order_id": "2501"}), Outcome.ACKED, "ACKED"),
    (
        "autoslice",
        success({"order_id": "2501", "children": [{"order_id": "2502"}, {"error": {}}]}),
        Outcome.ACKED,
        "ACKED",
    ),
    (
        "autoslice_old",
        success([{"error": {}}, {"order_id": "2501"}]),
        Outcome.ACKED,
        "ACKED",
    ),
    ("autoslice_none", success([{"error": {}}]), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    ("200_empty_id", success({"order_id": ""}), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    ("200_number_id", success({"order_id": 2501}), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    ("200_no_id", success({}), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    ("200_no_data", answer(200, {"status": "success"}), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    ("200_error", error(200, "OrderException"), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    (
        "200_error_with_id",
        answer(200, {"status": "error", "data": {"order_id": "2501"}}),
        Outcome.AMBIGUOUS,
        "NO_ORDER_ID",
    ),
    ("200_unparsable", answer(200, None), Outcome.AMBIGUOUS, "NO_ORDER_ID"),
    (
        "200_html",
        answer(200, {"data": {"order_id": "2501"}}, "text/html"),
        Outcome.AMBIGUOUS,
        "NO_ORDER_ID",
    ),
    ("202", success({"order_id": "2501"}, 202), Outcome.AMBIGUOUS, "UNFORESEEN"),
    # 3xx and 5xx.
    ("301", answer(301, None), Outcome.AMBIGUOUS, "REDIRECTED"),
    ("307", success({"order_id": "2501"}, 307), Outcome.AMBIGUOUS, "REDIRECTED"),
    ("500_general", error(500, "GeneralException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("500_order", error(500, "OrderException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("500_input", error(500, "InputException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("500_token", error(500, "TokenException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("502_data", error(502, "DataException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("503_network", error(503, "NetworkException"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("503_cap_of_changes", error(503, "NetworkException", CAP), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    ("504_html", answer(504, None, "text/html"), Outcome.AMBIGUOUS, "SERVER_ERROR"),
    # 4xx that proves nothing.
    (
        "400_timed_out",
        error(400, "OrderException", TIMED_OUT),
        Outcome.AMBIGUOUS,
        "ORDER_TIMED_OUT",
    ),
    (
        "400_request_timed_out",
        error(400, "NetworkException", "request 7f timed out"),
        Outcome.AMBIGUOUS,
        "ORDER_TIMED_OUT",
    ),
    (
        "400_see_order_book",
        error(400, "OrderException", "Please check the order book."),
        Outcome.AMBIGUOUS,
        "ORDER_TIMED_OUT",
    ),
    ("429_timed_out", error(429, None, TIMED_OUT), Outcome.AMBIGUOUS, "ORDER_TIMED_OUT"),
    ("408", error(408, "InputException"), Outcome.AMBIGUOUS, "ORDER_TIMED_OUT"),
    (
        "400_oms",
        error(400, "NetworkException", "Request failed (kitetrade-oms)"),
        Outcome.AMBIGUOUS,
        "BROKER_UNSURE",
    ),
    ("400_general", error(400, "GeneralException"), Outcome.AMBIGUOUS, "BROKER_UNSURE"),
    ("400_data", error(400, "DataException"), Outcome.AMBIGUOUS, "BROKER_UNSURE"),
    ("400_unparsable", answer(400, None), Outcome.AMBIGUOUS, "UNREADABLE"),
    ("400_html", answer(400, {"status": "error"}, "text/html"), Outcome.AMBIGUOUS, "UNREADABLE"),
    ("400_no_error", success({"order_id": "2501"}, 400), Outcome.AMBIGUOUS, "UNREADABLE"),
    ("403_html", answer(403, None, "text/html"), Outcome.AMBIGUOUS, "UNREADABLE"),
    ("404_html", answer(404, None, "text/html"), Outcome.AMBIGUOUS, "UNREADABLE"),
    # 4xx that is a no.
    ("funds", error(400, "MarginException", FUNDS), Outcome.REJECTED, "MARGIN"),
    (
        "funds_timed_out",
        error(400, "MarginException", TIMED_OUT),
        Outcome.AMBIGUOUS,
        "ORDER_TIMED_OUT",
    ),
    ("funds_as_input", error(400, "InputException", FUNDS), Outcome.REJECTED, "BROKER_REFUSED"),
    ("stock", error(400, "HoldingException", STOCK), Outcome.REJECTED, "HOLDINGS"),
    ("429", error(429, "NetworkException", "Too many requests"), Outcome.THROTTLED, "THROTTLED"),
    ("429_html", answer(429, None, "text/html"), Outcome.THROTTLED, "THROTTLED"),
    ("429_ip", error(429, None, "Too many requests from your IP"), Outcome.THROTTLED, "THROTTLED"),
    (
        "day_limit",
        error(429, "NetworkException", DAY),
        Outcome.REJECTED,
        HaltCode.BROKER_ORDER_LIMIT,
    ),
    (
        "day_limit_400",
        error(400, "NetworkException", DAY),
        Outcome.REJECTED,
        HaltCode.BROKER_ORDER_LIMIT,
    ),
    ("403_token", error(403, "TokenException"), Outcome.REJECTED_AUTH, "AUTH_REFUSED"),
    ("403_permission", error(403, "PermissionException"), Outcome.REJECTED, "BROKER_REFUSED"),
    ("403_2fa", error(403, "TwoFAException"), Outcome.REJECTED_AUTH, "AUTH_REFUSED"),
    ("403_user", error(403, "UserException"), Outcome.REJECTED, "BROKER_REFUSED"),
    (
        "403_ip",
        error(403, "PermissionException", "No IPs configured for this app."),
        Outcome.REJECTED,
        HaltCode.WRONG_IP,
    ),
    (
        "400_ip",
        error(400, "InputException", "Request from IP 192.0.2.1 is not allowed"),
        Outcome.REJECTED,
        HaltCode.WRONG_IP,
    ),
    ("400_ipo", error(400, "InputException", "IPO shares"), Outcome.REJECTED, "BROKER_REFUSED"),
    ("428", error(428, "HoldingException"), Outcome.REJECTED, "HOLDINGS"),
    ("428_untyped", error(428, None), Outcome.REJECTED, "HOLDINGS"),
    ("400_holding", error(400, "HoldingException"), Outcome.REJECTED, "HOLDINGS"),
    ("400_margin", error(400, "MarginException"), Outcome.REJECTED, "MARGIN"),
    ("400_input", error(400, "InputException", UNPROTECTED), Outcome.REJECTED, "BROKER_REFUSED"),
    ("400_order", error(400, "OrderException"), Outcome.REJECTED, "BROKER_REFUSED"),
    ("400_untyped", error(400, None), Outcome.REJECTED, "BROKER_REFUSED"),
    ("400_unknown", error(400, "BrandNewException"), Outcome.REJECTED, "BROKER_REFUSED"),
    (
        "404_route",
        error(404, "GeneralException", "Route not found"),
        Outcome.REJECTED,
        "NO_SUCH_ROUTE",
    ),
    ("405", error(405, "GeneralException"), Outcome.REJECTED, "NO_SUCH_ROUTE"),
    ("410", error(410, "InputException"), Outcome.REJECTED, "BROKER_REFUSED"),
]


@pytest.mark.parametrize(
    ("reply", "outcome", "code"),
    [pytest.param(reply, outcome, code, id=name) for name, reply, outcome, code in ROWS],
)
def test_an_observation_proves_no_more_than_it_does(
    reply: Reply, outcome: Outcome, code: str
) -> None:
    verdict = judge(TaskKind.PLACE, reply)
    assert (verdict.outcome, verdict.code) == (outcome, code)
    assert verdict.order_id == ("2501" if outcome is Outcome.ACKED else "")


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_change_beyond_the_cap_is_refused_under_any_status(status: int) -> None:
    verdict = judge(TaskKind.MODIFY, error(status, "NetworkException", CAP))
    assert (verdict.outcome, verdict.code) == (Outcome.REJECTED, "MODIFICATIONS_EXCEEDED")


@pytest.mark.parametrize("kind", [TaskKind.PLACE, TaskKind.CANCEL])
def test_the_cap_on_changes_says_nothing_about_anything_else(kind: TaskKind) -> None:
    assert judge(kind, error(503, "NetworkException", CAP)).outcome is Outcome.AMBIGUOUS


def test_every_row_of_the_table_has_an_observation() -> None:
    seen = {(outcome, code) for _, _, outcome, code in ROWS}
    seen.add((Outcome.REJECTED, "MODIFICATIONS_EXCEEDED"))
    assert {(row.outcome, row.code) for row in TABLE} == seen


def test_the_message_is_the_broker_s_or_says_what_failed() -> None:
    assert judge(TaskKind.PLACE, error(400, None, "why")).message == "why"
    unsent = Reply(withheld=Withheld.NOTHING_LEFT, failure="refused")
    assert judge(TaskKind.PLACE, unsent).message == "refused"
    long = judge(TaskKind.PLACE, error(400, None, "x" * 10_000)).message
    assert len(long) == MESSAGE_CHARACTERS_MAX


def test_only_what_is_certainly_not_at_the_broker_is_ever_sent_again() -> None:
    again = {outcome for outcome, state in STATE_AFTER.items() if state is TaskState.READY}
    assert again == {Outcome.NOT_SENT, Outcome.THROTTLED, Outcome.REJECTED_AUTH}
    assert STATE_AFTER[Outcome.AMBIGUOUS] is TaskState.UNKNOWN
    assert not TRANSITIONS[TaskState.UNKNOWN] & {TaskState.READY, TaskState.SENDING}


def test_refusals_that_every_order_will_meet_halt_the_account() -> None:
    assert set(HALTING_CODES) == {HaltCode.WRONG_IP, HaltCode.BROKER_ORDER_LIMIT}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([TIMED_OUT, CAP, DAY]),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
BODIES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["success", "error"]) | ANYTHING,
        "error_type": st.sampled_from(["InputException", "TokenException"]) | ANYTHING,
        "message": ANYTHING,
        "data": ANYTHING | st.fixed_dictionaries({"order_id": ANYTHING}),
    },
)
REPLIES = st.builds(
    Reply,
    http_status=st.none() | st.integers(-1, 1000) | st.integers(400, 599),
    content_type=st.sampled_from(["", JSON, "text/html"]) | st.text(),
    body=BODIES,
    withheld=st.none() | st.sampled_from(Withheld),
    failure=st.text(),
)
CERTAIN_NO = {Outcome.REJECTED, Outcome.REJECTED_AUTH, Outcome.THROTTLED, Outcome.NOT_SENT}


@given(REPLIES, st.sampled_from(TaskKind))
def test_whatever_is_observed_nothing_is_held_for_certain_without_proof(
    reply: Reply, kind: TaskKind
) -> None:
    verdict = judge(kind, reply)
    is_server_error = reply.http_status is not None and 500 <= reply.http_status < 600
    if reply.withheld is Withheld.MAY_HAVE_LEFT:
        assert verdict.outcome is Outcome.AMBIGUOUS
    if is_server_error and reply.withheld is None and verdict.code != "MODIFICATIONS_EXCEEDED":
        assert verdict.outcome is Outcome.AMBIGUOUS
    if verdict.outcome is Outcome.NOT_SENT:
        assert reply.withheld is Withheld.NOTHING_LEFT
    if verdict.outcome in CERTAIN_NO - {Outcome.NOT_SENT} and not is_server_error:
        assert reply.http_status in range(400, 500)
    if verdict.outcome is Outcome.ACKED:
        assert reply.http_status == 200
    assert (verdict.outcome is Outcome.ACKED) == bool(verdict.order_id)
