"""Kite's answers: the success envelope, the error envelope, and which status goes with which type.

Source: kite.md §2.1 and §5.1. Pure apart from Starlette's response classes.
"""

from __future__ import annotations

from typing import Final, Self

import orjson
from starlette.responses import Response

JSON: Final = "application/json"
HTTP_OK: Final = 200


class KiteError(Exception):
    """A refusal that the client sees as Kite's error envelope."""

    def __init__(self, *, status_code: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.error_type = error_type
        self.message = message

    @classmethod
    def input(cls, message: str) -> Self:
        """Return the error for a bad or missing parameter."""
        return cls(status_code=400, error_type="InputException", message=message)

    @classmethod
    def margin(cls, message: str) -> Self:
        """Return the error for an order that the funds do not cover."""
        return cls(status_code=400, error_type="MarginException", message=message)

    @classmethod
    def holding(cls, message: str) -> Self:
        """Return the error for selling what is not owned."""
        return cls(status_code=400, error_type="HoldingException", message=message)

    @classmethod
    def cap(cls, message: str) -> Self:
        """Return the error beyond a daily or per-order maximum: permanent, despite its type."""
        return cls(status_code=400, error_type="NetworkException", message=message)

    @classmethod
    def token(cls, message: str) -> Self:
        """Return the error for a session that does not exist or has ended."""
        return cls(status_code=403, error_type="TokenException", message=message)

    @classmethod
    def throttled(cls) -> Self:
        """Return the error beyond a request rate."""
        return cls(status_code=429, error_type="NetworkException", message="Too many requests")

    @classmethod
    def general(cls, status_code: int, message: str) -> Self:
        """Return an error of no better class, such as an unknown route."""
        return cls(status_code=status_code, error_type="GeneralException", message=message)

    def body(self) -> bytes:
        """Return the envelope as JSON."""
        return orjson.dumps(
            {
                "status": "error",
                "message": self.message,
                "data": None,
                "error_type": self.error_type,
            }
        )

    def of_slice(self) -> dict[str, object]:
        """Return it as the answer to an order that was cut tells of one slice (kite.md §2.3)."""
        return {
            "code": self.status_code,
            "error_type": self.error_type,
            "message": self.message,
            "data": None,
        }

    def response(self) -> Response:
        """Return the envelope as an HTTP response."""
        return json_response(self.body(), self.status_code)


def success(data: object) -> Response:
    """Return ``data`` in the success envelope; numpy columns are allowed in it."""
    body = {"status": "success", "data": data}
    return json_response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), HTTP_OK)


def json_response(body: bytes, status_code: int) -> Response:
    """Return a JSON body with exactly Kite's content type."""
    return Response(body, status_code, headers={"content-type": JSON})
