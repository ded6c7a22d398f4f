from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import httpx
import pytest
from virtual_time import run

from ticker_service.adapters.kite_login import ANSWER_BYTES_MAX, EXCHANGE_S_MAX, KiteLogin
from ticker_service.errors import BrokerUnavailable, LoginRequired

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

ASKED = {"api_key": "key", "request_token": "planted-request", "checksum": "planted-sum"}
SESSION = {"user_id": "AB1234", "access_token": "planted-access"}
PLAIN = {"Content-Type": "application/json"}
REFUSED = {"status": "error", "error_type": "TokenException", "message": "Token is invalid."}


class Kite(httpx.AsyncBaseTransport):
    """Answers every request alike and keeps them."""

    def __init__(self, answer: httpx.Response | Exception) -> None:
        self._answer = answer
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.requests.append(request)
        if isinstance(self._answer, Exception):
            raise self._answer
        if self._answer.is_stream_consumed:
            body = httpx.ByteStream(self._answer.content)
            return httpx.Response(self._answer.status_code, headers=PLAIN, stream=body)
        return self._answer


class Dribble(httpx.AsyncByteStream):
    """A body of one byte every few seconds, for ever."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(3.0)
            yield b" "


def exchanged(kite: Kite, route_prefix: str = "") -> Mapping[str, object]:
    login = KiteLogin("https://api.example", route_prefix=route_prefix, transport=kite)
    return run(login.exchange(**ASKED))


def refusal(kite: Kite, kind: type[Exception]) -> str:
    with pytest.raises(kind) as raised:
        exchanged(kite)
    assert len(kite.requests) == 1
    assert "planted" not in str(raised.value)
    assert raised.value.__cause__ is None
    return str(raised.value)


def test_the_form_goes_to_the_session_route_and_the_session_comes_back() -> None:
    kite = Kite(httpx.Response(200, json={"status": "success", "data": SESSION}))
    assert exchanged(kite, "/oms") == SESSION
    (request,) = kite.requests
    assert (request.method, str(request.url)) == ("POST", "https://api.example/oms/session/token")
    assert parse_qs(request.content.decode()) == {name: [value] for name, value in ASKED.items()}
    assert request.headers["X-Kite-Version"] == "3"


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_refusal_says_what_kite_said(status: int) -> None:
    message = refusal(Kite(httpx.Response(status, json=REFUSED)), LoginRequired)
    assert message == f"HTTP {status}: TokenException: Token is invalid."


def test_a_foreign_message_is_one_short_printable_line() -> None:
    answer = {**REFUSED, "message": "\r\nlog: forged \x1b[2J" + "x" * 5_000}
    message = refusal(Kite(httpx.Response(403, json=answer)), LoginRequired)
    assert message.isprintable()
    assert len(message) < 250


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"status": "success"}),
        httpx.Response(200, json={"status": "success", "data": []}),
        httpx.Response(200, json={"status": "error", "data": SESSION}),
        httpx.Response(200, json=[]),
        httpx.Response(200, text="<html>gateway</html>"),
        httpx.Response(200, content=b"[" * 60_000),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(403, text="<html>blocked</html>"),
        httpx.Response(429, json={**REFUSED, "error_type": "NetworkException"}),
        httpx.Response(500, json={**REFUSED, "error_type": "GeneralException"}),
        httpx.Response(503, json={"status": "success", "data": SESSION}),
    ],
)
def test_an_answer_that_is_neither_session_nor_refusal_is_no_answer(
    answer: httpx.Response,
) -> None:
    assert "without a session" in refusal(Kite(answer), BrokerUnavailable)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    headers = {"Location": "https://elsewhere.example/"}
    answer = httpx.Response(status, headers=headers, stream=httpx.ByteStream(b""))
    assert f"HTTP {status}" in refusal(Kite(answer), BrokerUnavailable)


def test_an_endless_answer_is_cut_off_by_size() -> None:
    answer = httpx.Response(200, content=b" " * (ANSWER_BYTES_MAX + 1))
    assert f"more than {ANSWER_BYTES_MAX} bytes" in refusal(Kite(answer), BrokerUnavailable)


def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(json.dumps({"status": "success", "data": SESSION}).encode())
    answer = httpx.Response(200, stream=httpx.ByteStream(packed))
    answer.headers["Content-Encoding"] = "gzip"
    kite = Kite(answer)
    assert "without a session" in refusal(kite, BrokerUnavailable)
    assert kite.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_dribbling_answer_is_cut_off_by_the_total_deadline() -> None:
    kite = Kite(httpx.Response(200, stream=Dribble()))
    assert f"within {EXCHANGE_S_MAX:.0f} s" in refusal(kite, BrokerUnavailable)


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("planted"),
        httpx.ReadTimeout("planted"),
        httpx.RemoteProtocolError("planted"),
    ],
)
def test_a_broken_line_is_reported_without_what_was_sent(error: Exception) -> None:
    assert type(error).__name__ in refusal(Kite(error), BrokerUnavailable)
