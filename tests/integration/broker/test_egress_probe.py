"""The probe of our own address, over real sockets, by the way that orders go."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from ticker_service.adapters.egress_probe import ANSWER_BYTES_MAX, EgressProbe
from ticker_service.adapters.kite_session import Egress
from ticker_service.errors import AddressUnknown
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def answering(body: bytes | None, status: int = 200) -> Iterator[str]:
    """Serve one answer to everything; the caller's own address if it is None."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = self.client_address[0].encode() if body is None else body
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.send_header("location", "http://127.0.0.1:1/")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ip"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(url: str, egress: Egress | None = None) -> str:
    return asyncio.run(EgressProbe(url, egress or Egress(), SystemClock()).address())


def test_the_probe_is_asked_from_the_accounts_own_source_address() -> None:
    with answering(None) as url:
        assert ask(url) == "127.0.0.1"
        assert ask(url, Egress(source_address="127.0.0.2")) == "127.0.0.2"


@pytest.mark.parametrize(
    "body",
    [
        b"203.0.113.7\n",
        b'"203.0.113.7"',
        b'{"ip": "203.0.113.7"}',
        b'{"city": "Pune", "origin": "203.0.113.7"}',
        b"::ffff:203.0.113.7",
    ],
)
def test_an_address_is_taken_as_text_or_in_json(body: bytes) -> None:
    with answering(body) as url:
        assert ask(url) == "203.0.113.7"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"<html>203.0.113.7</html>", 200),
        (b'{"ip": 1}', 200),
        (b'{"ip": null}', 200),
        (b"[" * 3_000, 200),
        (b"1" * (ANSWER_BYTES_MAX + 1), 200),
        (b"\xff\xfe", 200),
        (b"203.0.113.7", 500),
        (b"203.0.113.7", 302),
    ],
)
def test_anything_else_is_no_address(body: bytes, status: int) -> None:
    with answering(body, status) as url, pytest.raises(AddressUnknown):
        ask(url)


def test_a_probe_that_is_not_there_is_told_without_a_trace() -> None:
    with answering(b"") as url:
        pass
    with pytest.raises(AddressUnknown, match="no answer from"):
        ask(url)
