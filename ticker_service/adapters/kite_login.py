"""The one HTTP call of a login: request token in, session out. Port ``SessionExchange``.

Sent once: a request token is good for one use, so a repetition after a lost answer can only fail.
Source: kite.md §3.1 and §5.1.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final

import httpx

from ticker_service.errors import BrokerUnavailable, LoginRequired

if TYPE_CHECKING:
    from collections.abc import Mapping

EXCHANGE_S_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 << 10
MESSAGE_CHARACTERS_MAX: Final = 200
HEADERS: Final = {"X-Kite-Version": "3", "Accept-Encoding": "identity"}
"""Not compressed, so that the bytes counted are all the bytes there are."""
HTTP_OK: Final = 200
HTTP_CLIENT_ERRORS: Final = range(400, 500)
HTTP_TOO_MANY: Final = 429


class KiteLogin:
    """Kite's ``/session/token``."""

    def __init__(
        self,
        rest_root: str,
        *,
        route_prefix: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = f"{rest_root}{route_prefix}/session/token"
        self._transport = transport

    async def exchange(
        self, *, api_key: str, request_token: str, checksum: str
    ) -> Mapping[str, object]:
        """Return the session's fields.

        Raises:
            LoginRequired: Kite refused; the request token is used up, old or another app's.
            BrokerUnavailable: No answer, or none of Kite's.
        """
        form = {"api_key": api_key, "request_token": request_token, "checksum": checksum}
        # ``from None``: an httpx error carries the request, and the request carries the token.
        try:
            async with asyncio.timeout(EXCHANGE_S_MAX):
                status, content = await self._post(form)
        except TimeoutError:
            raise BrokerUnavailable(
                f"no answer from {self._url} within {EXCHANGE_S_MAX:.0f} s"
            ) from None
        except httpx.HTTPError as error:
            raise BrokerUnavailable(f"no answer from {self._url}: {type(error).__name__}") from None
        return self._session(status, content)

    async def _post(self, form: Mapping[str, str]) -> tuple[int, bytes]:
        content = bytearray()
        async with (
            httpx.AsyncClient(
                trust_env=False,
                follow_redirects=False,
                timeout=None,  # noqa: S113 - the caller's total deadline is stricter
                transport=self._transport,
            ) as client,
            client.stream("POST", self._url, data=form, headers=HEADERS) as response,
        ):
            async for part in response.aiter_raw():
                content += part
                if len(content) > ANSWER_BYTES_MAX:
                    raise BrokerUnavailable(
                        f"{self._url} answered more than {ANSWER_BYTES_MAX} bytes"
                    )
            return response.status_code, bytes(content)

    def _session(self, status: int, content: bytes) -> Mapping[str, object]:
        answer = _parsed(content)
        if status == HTTP_OK and answer.get("status") == "success":
            session = answer.get("data")
            if isinstance(session, dict):
                return session
        is_refusal = status in HTTP_CLIENT_ERRORS and status != HTTP_TOO_MANY
        if is_refusal and answer.get("status") == "error":
            raise LoginRequired(f"HTTP {status}: {_message(answer)}")
        raise BrokerUnavailable(f"{self._url} answered HTTP {status} without a session")


def _parsed(content: bytes) -> Mapping[str, object]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _message(answer: Mapping[str, object]) -> str:
    # Foreign text on its way to a log or a terminal: one short printable line.
    text = f"{answer.get('error_type')}: {answer.get('message')}"
    return "".join(c if c.isprintable() else " " for c in text)[:MESSAGE_CHARACTERS_MAX]
