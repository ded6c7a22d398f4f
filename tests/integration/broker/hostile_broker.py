"""An HTTP server on raw sockets that behaves as a test tells it, where a broker would be."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import os
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S: Final = 10.0
"""How long a test waits for what must come; never for what must not."""


@dataclass(frozen=True, slots=True)
class Received:
    """One complete request."""

    method: str
    target: str
    headers: dict[str, str]
    body: str
    connection: int
    peer: str


class HostileBroker:
    """Accepts connections, keeps complete requests, and answers as told.

    Args:
        answer: Called for every complete request, on its connection's thread.
        tls: Speaks TLS with this context.
        greet: Called for every connection before anything is read; may close it.
    """

    def __init__(
        self,
        answer: Callable[[socket.socket, Received], None],
        *,
        tls: ssl.SSLContext | None = None,
        greet: Callable[[socket.socket], None] = lambda _: None,
    ) -> None:
        self.requests: list[Received] = []
        self.leaving = threading.Event()
        """Set when the test is over, so that whoever waits in an answer stops."""
        self._answer = answer
        self._tls = tls
        self._greet = greet
        self._arrivals = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.port: int = self._listener.getsockname()[1]
        self.root = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def wait_for_request(self) -> None:
        """Return once one more complete request has come."""
        assert self._arrivals.acquire(timeout=WAIT_S)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leaving.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(WAIT_S)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, (peer, _) = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            number = len(self._connections) - 1
            thread = threading.Thread(target=self._serve, args=(connection, number, peer))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int, peer: str) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            stack.enter_context(contextlib.suppress(OSError))
            self._greet(connection)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            with connection.makefile("rb") as stream:
                while (received := self._read(stream, number, peer)) is not None:
                    self.requests.append(received)
                    self._arrivals.release()
                    self._answer(connection, received)
                    if connection.fileno() == -1:
                        return

    def _read(self, stream: object, number: int, peer: str) -> Received | None:
        first = stream.readline().decode("latin-1").split()  # type: ignore[attr-defined]
        if not first:
            return None
        headers = {}
        while line := stream.readline().decode("latin-1").strip():  # type: ignore[attr-defined]
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))  # type: ignore[attr-defined]
        return Received(first[0], first[1], headers, body.decode(), number, peer)


def http(
    status: int,
    body: bytes | str | object,
    *,
    content_type: str | None = "application/json",
    headers: str = "",
    length: int | None = None,
) -> bytes:
    """Return a whole response; ``length`` may lie."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body)
    content = body.encode() if isinstance(body, str) else body
    declared = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    head = (
        f"HTTP/1.1 {status} Reason\r\n{declared}{headers}"
        f"Content-Length: {len(content) if length is None else length}\r\n\r\n"
    )
    return head.encode() + content


def success(data: object) -> bytes:
    return http(200, {"status": "success", "data": data})


def error(status: int, error_type: str, message: str = "no") -> bytes:
    body = {"status": "error", "error_type": error_type, "message": message, "data": None}
    return http(status, body)


ACKED: Final = success({"order_id": "250101000000001"})


def always(response: bytes) -> Callable[[socket.socket, Received], None]:
    """Answer every request so and keep the connection."""

    def answer(connection: socket.socket, _: Received) -> None:
        connection.sendall(response)

    return answer


def then_close(response: bytes) -> Callable[[socket.socket, Received], None]:
    """Answer so and close."""

    def answer(connection: socket.socket, _: Received) -> None:
        connection.sendall(response)
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    return answer


def reset(connection: socket.socket, _: Received | None = None) -> None:
    """Close so that the other side gets a reset instead of an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Closed beneath the stream that still reads it, and not shut down first, which would send an
    # orderly end.
    os.close(connection.detach())


@dataclass(frozen=True, slots=True)
class Identity:
    """A self-signed certificate and a server context that shows it."""

    certificate: str
    context: ssl.SSLContext


def identity(folder: Path, *, host: str) -> Identity:
    """Make a certificate for a name or an address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test broker")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2120, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "certificate.pem", folder / "key.pem"
    certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_path, key_path)
    return Identity(str(certificate_path), context)
