"""Every refusal of the order doors as one answer: code, field, value, rule, and its HTTP status."""

from __future__ import annotations

import math
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
    "ACCOUNT_HALTED": 503,
    "TOO_MANY_WAITING": 429,
    "TOO_MANY_REQUESTS": 429,
    "FORBIDDEN": 403,
}
VALUE_CHARACTERS_MAX: Final = 100
INTEGER_MAX: Final = 2**63 - 1


def answer_of(error: Exception, request_id: str | None = None) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the body of one of ``EXPECTED``."""
    match error:
        case IdempotencyConflict():
            status, answer = 409, _refused(error)
        case OrderRefused():
            status, answer = _STATUS.get(error.code, 422), _refused(error)
        case JournalUnavailable():
            # Its commit may have been made and only the word of it lost.
            answer = ErrorAnswer(
                code="JOURNAL_UNAVAILABLE",
                message="the journal did not confirm; whether a new request was taken is not "
                "known: send the same again with the same key",
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
    rule = first["msg"]
    return ErrorAnswer(
        code="INVALID_REQUEST",
        message=_text(f"{field}: {rule}"),
        field=_text(field),
        value=None if first["type"] == "missing" else _writable(shown),
        rule=_text(rule),
    )


def unread(status: int, why: str) -> tuple[int, ErrorAnswer]:
    """Return the status and answer of a request that never came to one of our functions."""
    match status:
        case 404:
            return 404, ErrorAnswer(code="NOT_FOUND", message="there is nothing at this path")
        case 405:
            return 405, ErrorAnswer(code="METHOD_NOT_ALLOWED", message=why)
        case _:
            return 422, ErrorAnswer(code="INVALID_REQUEST", message=f"the body is not JSON: {why}")


def internal(request_id: str | None = None) -> dict[str, Any]:
    """Return the answer to a request that met a bug of ours; what it was is in the log alone."""
    return ErrorAnswer(
        code="INTERNAL",
        message="a fault of ours, which is logged; look at the order's status, or repeat the "
        "request with its key",
        request_id=request_id,
    ).model_dump()


def _refused(error: OrderRefused) -> ErrorAnswer:
    return ErrorAnswer(
        code=error.code,
        message=_text(str(error)),
        field=error.field or None,
        value=_writable(error.value),
        rule=error.rule,
    )


def _writable(value: object) -> int | float | str | None:
    """Return what the caller sent as any JSON reader takes it back."""
    match value:
        case None | bool():
            return value
        case int() if abs(value) <= INTEGER_MAX:
            return value
        case float() if math.isfinite(value):
            return value
        case int():
            return "an integer that is too large"
        case _:
            return _text(str(value))[:VALUE_CHARACTERS_MAX]


def _text(text: str) -> str:
    """Return a text without the halves of characters that JSON can spell and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
