"""Every refusal of the order doors as one answer: code, field, value, rule, and its HTTP status."""

from __future__ import annotations

import math
from decimal import Decimal
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
    "INVALID_JSON": 400,
    "UNKNOWN_ORDER": 404,
    "UNKNOWN_ACCOUNT": 404,
    "UNKNOWN_GROUP": 404,
    "NO_ABLE_ACCOUNT": 503,
    "ACCOUNT_NOT_OPEN": 503,
    "ACCOUNT_HALTED": 503,
    "ORDER_LIMIT": 429,
    "KILL_SWITCH": 503,
    "TOO_MANY_WAITING": 429,
    "TOO_MANY_REQUESTS": 429,
    "FORBIDDEN": 403,
    "UNKNOWN_TASK": 404,
    "NOT_POSSIBLE": 409,
    "NOT_ADOPTED": 409,
    "BOOK_SPEAKS_AGAINST": 409,
    "RESENT_ALREADY": 409,
    "MOVED_MEANWHILE": 409,
    "BOOK_NOT_READ": 503,
}
VALUE_CHARACTERS_MAX: Final = 100
INTEGER_MAX: Final = 2**63 - 1
_EXPONENT_SHOWN_MAX: Final = 30


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
                message="JOURNAL_UNAVAILABLE: the journal did not confirm; whether a new request "
                "was taken is not known: send the same again with the same key",
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
    if first["type"] == "json_invalid":
        return _refused(not_json(first["ctx"]["error"]))
    where, *inner = first["loc"]
    if where == "body" and not inner and first["type"] == "missing":
        return _refused(not_json("there is none"))
    # A REST request has parts; a frame has none, and there the first word is the field's own.
    is_part = where in {"body", "query", "path"} and inner
    field = ".".join(map(str, inner if is_part else first["loc"]))
    value = first.get("input")
    is_plain = isinstance(value, int | float | str | Decimal | None)
    shown = value if is_plain else type(value).__name__
    rule = first["msg"].removeprefix("Value error, ")
    sent = None if first["type"] == "missing" else _writable(shown)
    named = field if sent is None else f"{field}={sent!r}"
    return ErrorAnswer(
        code="INVALID_REQUEST",
        message=text_of(f"INVALID_REQUEST: {named}: {rule}"),
        field=text_of(field),
        value=sent,
        rule=text_of(rule),
    )


def unread(status: int, why: str) -> tuple[int, ErrorAnswer]:
    """Return the status and answer of a request that never came to one of our functions."""
    match status:
        case 404:
            code, why = "NOT_FOUND", "there is nothing at this path"
        case 405:
            code = "METHOD_NOT_ALLOWED"
        case _:
            status, code = 400, "INVALID_REQUEST"
    return status, ErrorAnswer(code=code, message=f"{code}: {why}")


def not_json(why: str) -> OrderRefused:
    """Return the refusal of a text that is no JSON or can be understood in two ways."""
    return OrderRefused("INVALID_JSON", f"must be one JSON object: {why}")


def too_large(length: str, bytes_max: int) -> ErrorAnswer:
    """Return the answer to a body that is not read for its size."""
    rule = f"must be at most {bytes_max}"
    return ErrorAnswer(
        code="BODY_TOO_LARGE",
        message=text_of(f"BODY_TOO_LARGE: Content-Length={length}: {rule}"),
        field="Content-Length",
        value=int(length),
        rule=rule,
    )


def without_length() -> ErrorAnswer:
    """Return the answer to a body that does not say how long it is."""
    rule = "must be stated; chunked bodies are not taken"
    return ErrorAnswer(
        code="LENGTH_REQUIRED",
        message=f"LENGTH_REQUIRED: Content-Length: {rule}",
        field="Content-Length",
        rule=rule,
    )


def not_called_json(content_type: str) -> ErrorAnswer:
    """Return the answer to a body that is said to be something else, as curl's ``-d`` does."""
    rule = "must be application/json"
    return ErrorAnswer(
        code="UNSUPPORTED_MEDIA_TYPE",
        message=text_of(f"UNSUPPORTED_MEDIA_TYPE: Content-Type={content_type!r}: {rule}"),
        field="Content-Type",
        value=_writable(content_type),
        rule=rule,
    )


def internal(request_id: str | None = None) -> dict[str, Any]:
    """Return the answer to a request that met a bug of ours; what it was is in the log alone."""
    return ErrorAnswer(
        code="INTERNAL",
        message="INTERNAL: a fault of ours, which is logged; look at the order's status, or "
        "repeat the request with its key",
        request_id=request_id,
    ).model_dump()


def _refused(error: OrderRefused) -> ErrorAnswer:
    return ErrorAnswer(
        code=error.code,
        message=text_of(str(error)),
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
        case Decimal() if value.is_finite() and abs(value.adjusted()) <= _EXPONENT_SHOWN_MAX:
            return f"{value:f}"[:VALUE_CHARACTERS_MAX]
        case _:
            return text_of(str(value))[:VALUE_CHARACTERS_MAX]


def text_of(text: str) -> str:
    """Return a text without the halves of characters that JSON can spell and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
