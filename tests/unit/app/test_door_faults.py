"""What the order doors say when they say no: the code first, wherever only the text is shown."""

from __future__ import annotations

import pytest

from app.http import faults
from app.security.tokens import TokenFault, TokenRefused
from ticker_service.errors import IdempotencyConflict, JournalUnavailable, OrderRefused

NOS = [
    faults.answer_of(JournalUnavailable("the connection is gone"))[1],
    faults.answer_of(OrderRefused("KILL_SWITCH", "somebody stopped it"))[1],
    faults.answer_of(IdempotencyConflict("IDEMPOTENCY_CONFLICT", "must be the same"))[1],
    faults.answer_of(TokenRefused(TokenFault.INVALID, "no"))[1],
    faults.internal(),
    *(faults.unread(status, "why")[1].model_dump() for status in (400, 404, 405)),
    faults.invalid([{"type": "missing", "loc": ("body",), "input": None}]).model_dump(),
    faults.invalid([{"type": "x", "loc": ("op",), "input": 1, "msg": "no"}]).model_dump(),
]


@pytest.mark.parametrize("no", NOS, ids=[str(no["code"]) for no in NOS])
def test_a_no_begins_with_its_code(no: dict[str, object]) -> None:
    assert str(no["message"]).startswith(f"{no['code']}: ")
    assert len(str(no["message"])) > len(str(no["code"])) + 2
