"""What is told about a request whose answer is bad, late or missing; each is sent exactly once."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from asking import LONG_S, ORDER, SHORT_S, TAG, broker_at, in_s, place_once, play
from hostile_broker import (
    ACKED,
    HostileBroker,
    Identity,
    always,
    error,
    http,
    identity,
    reset,
    success,
    then_close,
)

from ticker_service.adapters.kite_session import Egress
from ticker_service.domain.order import TaskKind
from ticker_service.orders import classify
from ticker_service.orders.classify import Outcome
from ticker_service.ports import NO_TURN, Withheld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hostile_broker import Received

    from ticker_service.adapters.kite_broker import KiteBroker
    from ticker_service.ports import Reply

NOTHING, PERHAPS = Withheld.NOTHING_LEFT, Withheld.MAY_HAVE_LEFT
FULL_S = 5.0
"""Far beyond a short deadline and far below what the misbehaviour would take."""


def outcome(reply: Reply) -> Outcome:
    return classify.judge(TaskKind.PLACE, reply).outcome


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_order_is_posted_once(status: int) -> None:
    with HostileBroker(always(ACKED)) as elsewhere:
        location = f"Location: {elsewhere.root}/orders/regular\r\n"
        with HostileBroker(always(http(status, "", headers=location))) as broker:
            reply = place_once(broker_at(broker.root))
            assert len(broker.requests) == 1
        assert elsewhere.requests == []
    assert reply.http_status == status
    assert outcome(reply) is Outcome.AMBIGUOUS


def dribbling(head: bytes, broker: list[HostileBroker]) -> Callable[..., None]:
    """Send a head and then a byte at a time, each soon enough for a timeout per read."""

    def answer(connection: socket.socket, _: Received) -> None:
        connection.sendall(head)
        while not broker[0].leaving.wait(SHORT_S / 10):
            connection.sendall(b" ")

    return answer


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
DRIBBLES = {
    "status_line": b"HTTP/1.1",
    "headers": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "body": HEAD,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n",
}


@pytest.mark.parametrize("part", DRIBBLES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_that_dribbles_in_ends_at_the_deadline(
    part: str, scheme: str, own_identity: Identity
) -> None:
    tls = own_identity.context if scheme == "https" else None
    itself: list[HostileBroker] = []
    with HostileBroker(dribbling(DRIBBLES[part], itself), tls=tls) as broker:
        itself.append(broker)
        egress = Egress(ca_certificates=own_identity.certificate)
        began = time.monotonic()
        reply = place_once(broker_at(broker.root, egress=egress), within_s=SHORT_S)
        took_s = time.monotonic() - began
        assert len(broker.requests) == 1
    assert reply.withheld is PERHAPS
    # The worker's own word, not the event loop's that gave up waiting for it.
    assert "DeadlinePassed" in reply.failure or "Timeout" in reply.failure
    assert took_s < FULL_S


def test_a_silent_broker_may_have_the_order() -> None:
    def silence(connection: socket.socket, _: Received) -> None:
        connection.recv(1)

    with HostileBroker(silence) as broker:
        reply = place_once(broker_at(broker.root), within_s=SHORT_S)
        assert len(broker.requests) == 1
    assert reply.withheld is PERHAPS
    assert outcome(reply) is Outcome.AMBIGUOUS


BREAKS = {
    "reset": reset,
    "end": then_close(b""),
    "end_in_status_line": then_close(b"HTTP/1."),
    "end_in_headers": then_close(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "end_in_body": then_close(http(200, '{"status":"success","data":{"order', length=500)),
    "refusal_cut_short": then_close(http(400, '{"status":"error",', length=500)),
    "end_in_chunk": then_close(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"f\r\n{"
    ),
    "not_http": then_close(b"\x00\xff garbage\r\n\r\n"),
    "too_many_headers": then_close(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n"),
    "endless_header": then_close(b"HTTP/1.1 200 OK\r\nA: " + b"b" * (1 << 20)),
    "no_gzip": then_close(http(200, "plain", headers="Content-Encoding: gzip\r\n")),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_an_answer_that_breaks_off_leaves_the_outcome_open(kind: str) -> None:
    with HostileBroker(BREAKS[kind]) as broker:
        reply = place_once(broker_at(broker.root))
        assert len(broker.requests) == 1
    assert reply.body is None
    assert outcome(reply) is Outcome.AMBIGUOUS


USELESS = {
    "500_json": error(500, "OrderException"),
    "502_json": error(502, "DataException"),
    "503_json": error(503, "NetworkException"),
    "503_retry_after": http(503, "{}", headers="Retry-After: 0\r\n"),
    "504_html": http(504, "<html>gateway timeout</html>", content_type="text/html"),
    "200_html": http(200, "<html>hello</html>", content_type="text/html"),
    "200_called_html": http(200, ACKED.partition(b"\r\n\r\n")[2], content_type="text/html"),
    "200_called_nothing": http(200, ACKED.partition(b"\r\n\r\n")[2], content_type=None),
    "200_no_json": http(200, '{"status":"success","data":{"order_id":'),
    "200_deep": http(200, "[" * 100_000),
    "200_list": http(200, [1, 2]),
    "200_empty": http(200, ""),
    "200_no_data": http(200, {"status": "success"}),
    "200_no_order_id": success({"something": "else"}),
    "200_number": success({"order_id": 250101000000001}),
    "200_error": error(200, "OrderException"),
    "204": http(204, "", content_type=None),
    "400_html": http(400, "<html>bad</html>", content_type="text/html"),
    "400_timed_out": error(400, "OrderException", "Order request timed out. Please check the"),
}


@pytest.mark.parametrize("kind", USELESS)
def test_an_answer_that_proves_nothing_leaves_the_outcome_open(kind: str) -> None:
    with HostileBroker(always(USELESS[kind])) as broker:
        reply = place_once(broker_at(broker.root))
        assert len(broker.requests) == 1
    assert reply.http_status == int(kind[:3])
    assert outcome(reply) is Outcome.AMBIGUOUS


def test_an_error_type_unknown_to_the_official_client_is_kept() -> None:
    with HostileBroker(always(error(400, "MarginException", "Insufficient funds"))) as broker:
        reply = place_once(broker_at(broker.root))
    assert reply.body is not None
    assert reply.body["error_type"] == "MarginException"
    verdict = classify.judge(TaskKind.PLACE, reply)
    assert (verdict.outcome, verdict.code) == (Outcome.REJECTED, "MARGIN")
    assert verdict.message == "Insufficient funds"


@pytest.mark.parametrize(
    "response",
    [
        http(200, b" " * (2 << 20)),
        http(200, gzip.compress(b" " * (64 << 20)), headers="Content-Encoding: gzip\r\n"),
    ],
    ids=["plain", "gzip"],
)
def test_a_body_beyond_the_limit_is_not_read_to_its_end(response: bytes) -> None:
    with HostileBroker(always(response)) as broker:
        reply = place_once(broker_at(broker.root))
    assert reply.withheld is PERHAPS
    assert "AnswerTooLarge" in reply.failure


def test_nothing_leaves_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    reply = place_once(broker_at(f"http://127.0.0.1:{port}"))
    assert reply.withheld is NOTHING
    assert outcome(reply) is Outcome.NOT_SENT


class NoTurn:
    """A ``SendGate`` that never has room, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[TaskKind] = []

    def turn(
        self,
        kind: TaskKind,
        *,
        leave_by_ns: int,  # noqa: ARG002 - the port's
        may_leave: Callable[[], bool] | None = None,  # noqa: ARG002 - likewise
    ) -> bool:
        self.asked.append(kind)
        return False


def test_nothing_leaves_without_a_turn_and_no_byte_comes_to_the_broker() -> None:
    gate = NoTurn()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5.0)
        reply = place_once(broker_at(f"http://127.0.0.1:{listener.getsockname()[1]}", sends=gate))
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5.0)
            assert connection.recv(1) == b""
    assert (reply.withheld, reply.failure) == (NOTHING, NO_TURN)
    assert gate.asked == [TaskKind.PLACE]


def test_nothing_leaves_when_the_name_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    broker = broker_at("http://broker.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert place_once(broker).withheld is NOTHING


@pytest.mark.parametrize("limit", ["deadline", "leave_by"])
def test_nothing_leaves_after_its_time_when_the_name_takes_for_ever(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, resolve = threading.Event(), socket.getaddrinfo

    def slow(host: str, *arguments: object, **named: object) -> object:
        if host == "broker.invalid":
            found.wait()
            host = "127.0.0.1"
        return resolve(host, *arguments, **named)  # type: ignore[arg-type]

    async def scene(broker: KiteBroker) -> Reply:
        if limit == "deadline":
            try:
                return await broker.place(ORDER, tag=TAG, deadline_ns=in_s(SHORT_S))
            finally:
                found.set()
        leave_by_ns = in_s(SHORT_S)
        threading.Timer(2 * SHORT_S, found.set).start()
        return await broker.place(ORDER, tag=TAG, deadline_ns=in_s(LONG_S), leave_by_ns=leave_by_ns)

    with HostileBroker(always(ACKED)) as server:
        broker = broker_at(f"http://broker.invalid:{server.port}")
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        # The broker's close waits for the thread, which finds the name only now.
        reply = play(broker, scene)
        assert server.requests == []
    assert reply.withheld is NOTHING


def test_nothing_leaves_to_a_certificate_nobody_trusts(own_identity: Identity) -> None:
    with HostileBroker(always(ACKED), tls=own_identity.context) as broker:
        reply = place_once(broker_at(broker.root))
        assert broker.requests == []
    assert reply.withheld is NOTHING
    assert "SSLCertVerificationError" in reply.failure


def test_nothing_leaves_to_a_certificate_of_another_name(tmp_path: Path) -> None:
    other = identity(tmp_path, host="other.example")
    with HostileBroker(always(ACKED), tls=other.context) as broker:
        reply = place_once(broker_at(broker.root, egress=Egress(ca_certificates=other.certificate)))
        assert broker.requests == []
    assert reply.withheld is NOTHING


def test_nothing_leaves_when_the_handshake_is_not_answered(own_identity: Identity) -> None:
    def hold(connection: socket.socket) -> None:
        while connection.recv(1):
            pass

    with HostileBroker(always(ACKED), tls=own_identity.context, greet=hold) as broker:
        reply = place_once(broker_at(broker.root), within_s=SHORT_S)
    assert reply.withheld is NOTHING
    assert outcome(reply) is Outcome.NOT_SENT


def test_nothing_leaves_when_the_handshake_is_reset(own_identity: Identity) -> None:
    with HostileBroker(always(ACKED), tls=own_identity.context, greet=reset) as broker:
        assert place_once(broker_at(broker.root)).withheld is NOTHING


def test_a_trusted_certificate_is_enough(own_identity: Identity) -> None:
    egress = Egress(ca_certificates=own_identity.certificate)
    with HostileBroker(always(ACKED), tls=own_identity.context) as broker:
        reply = place_once(broker_at(broker.root, egress=egress))
    assert outcome(reply) is Outcome.ACKED


def test_nothing_leaves_after_its_deadline() -> None:
    with HostileBroker(always(ACKED)) as broker:
        reply = place_once(broker_at(broker.root), within_s=-1.0)
        assert broker.requests == []
    assert reply.withheld is NOTHING


def test_a_full_answer_in_pieces_is_one_answer() -> None:
    def pieces(connection: socket.socket, _: Received) -> None:
        for at in range(len(ACKED)):
            connection.sendall(ACKED[at : at + 1])

    with HostileBroker(pieces) as broker:
        reply = place_once(broker_at(broker.root), within_s=LONG_S)
    assert classify.judge(TaskKind.PLACE, reply).order_id == "250101000000001"
