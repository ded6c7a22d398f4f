"""Read what a REST caller sent: bounded bodies, forms, queries and the credentials. Edge only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import orjson

from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

BODY_BYTES_MAX: Final = 64 * 1024
FORM_FIELDS_MAX: Final = 100


async def body(request: Request) -> bytes:
    """Return the request's body.

    Raises:
        KiteError: It is longer than ``BODY_BYTES_MAX``.
    """
    read = bytearray()
    async for chunk in request.stream():
        read += chunk
        if len(read) > BODY_BYTES_MAX:
            raise KiteError.input(f"Request body is longer than {BODY_BYTES_MAX} bytes.")
    return bytes(read)


async def form(request: Request) -> dict[str, str]:
    """Return a form-encoded body; the last value of a repeated field counts.

    Raises:
        KiteError: The body is too long or no form.
    """
    text = (await body(request)).decode("utf-8", "replace")
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX))
    except ValueError as error:
        raise KiteError.input("Invalid form body.") from error


async def json_object(request: Request) -> dict[str, object]:
    """Return a JSON body that is an object.

    Raises:
        KiteError: The body is too long or anything else.
    """
    try:
        value = orjson.loads(await body(request))
    except orjson.JSONDecodeError as error:
        raise KiteError.input("Request body is not JSON.") from error
    if not isinstance(value, dict):
        raise KiteError.input("Request body is not a JSON object.")
    return value


async def json_objects(request: Request) -> list[dict[str, object]]:
    """Return a JSON body that is a list of objects.

    Raises:
        KiteError: The body is too long or anything else.
    """
    try:
        value = orjson.loads(await body(request))
    except orjson.JSONDecodeError as error:
        raise KiteError.input("Request body is not JSON.") from error
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise KiteError.input("Request body is not a JSON list of objects.")
    return value


def required(fields: Mapping[str, str], name: str) -> str:
    """Return a field that must be there and not blank.

    Raises:
        KiteError: It is missing or blank.
    """
    value = fields.get(name, "")
    if not value:
        raise KiteError.input(f"Missing or empty field `{name}`.")
    return value


def credentials(request: Request) -> tuple[str, str]:
    """Return api_key and access_token of ``Authorization: token api_key:access_token``.

    Raises:
        KiteError: The header is missing or of another form.
    """
    scheme, _, pair = request.headers.get("authorization", "").partition(" ")
    api_key, colon, access_token = pair.strip().partition(":")
    if scheme.lower() != "token" or not colon:
        raise KiteError.token("Incorrect `api_key` or `access_token`.")
    return api_key, access_token
