"""Every refusal of the order doors as one answer: code, field, value, rule, and its HTTP status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from app.http.schemas import ErrorAnswer
from app.security.tokens import TokenRefused
from ticker_service.errors import IdempotencyConflict, JournalUnavailable, OrderRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

EXPECTED: Final = (OrderRefused, JournalUnavailable, TokenRefused, ValidationError)
"""What a caller can cause or must be able to bear; everything else is our bug."""

_STATUS: Final = {
    "UNKNOWN_ORDER": 404,
    "UNKNOWN_ACCOUNT": 404,
    "ACCOUNT_NOT_OPEN": 503,
    "TOO_MANY_WAITING": 429,
    "TOO_MANY_REQUESTS": 429,
    "FORBIDDEN": 403,
}
VALUE_CHARACTERS_MAX: Final = 100


def answer_of(error: Exception, request_id: str | None = None) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of one of ``EXPECTED``."""
    match error:
        case IdempotencyConflict():
            status, answer = 409, _refused(error)
        case OrderRefused():
            status, answer = _STATUS.get(error.code, 422), _refused(error)
        case JournalUnavailable():
            answer = ErrorAnswer(
                code="JOURNAL_UNAVAILABLE", message="the journal does not answer; nothing was done"
            )
            status = 503
        case TokenRefused():
            status, answer = 401, ErrorAnswer(code=error.code, message=str(error))
        case ValidationError():
            status, answer = 422, invalid(error.errors())
        case _:
            raise error
    return status, answer.model_copy(update={"request_id": request_id}).model_dump()


def invalid(details: Sequence[ErrorDetails] | Sequence[Any]) -> ErrorAnswer:
    """Return the first fault of a request's shape."""
    first = details[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body")
    value = first.get("input")
    shown = value if isinstance(value, int | float | str | None) else type(value).__name__
    if isinstance(shown, str):
        shown = shown[:VALUE_CHARACTERS_MAX]
    rule = first["msg"]
    return ErrorAnswer(
        code="INVALID_REQUEST",
        message=f"{field}: {rule}",
        field=field,
        value=None if first["type"] == "missing" else shown,
        rule=rule,
    )


def _refused(error: OrderRefused) -> ErrorAnswer:
    value = error.value if isinstance(error.value, int | str | None) else str(error.value)
    return ErrorAnswer(
        code=error.code,
        message=str(error),
        field=error.field or None,
        value=value,
        rule=error.rule,
    )
