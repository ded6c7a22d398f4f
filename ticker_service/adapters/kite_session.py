"""One HTTP exchange with Kite, sent once or not at all, and an exact record of what happened.

Goal: know of every request whether a byte of it may have left (I1). What does not work is
``requests`` as the official client uses it: it follows redirects (a 307 made it POST an order
twice), its timeout starts anew with every byte that dribbles in, it takes proxies, passwords and
certificates from the environment, and its exceptions do not tell a refused connection from a lost
answer. Reading an order book it parses every date (2,000 rows: 104 ms against 18 ms here). So the
client builds the request, and is given a session whose ``send`` is ours: over urllib3 connections
that ask the :class:`Exchange` for leave right before their first write, it records the answer and
unwinds the client, whose reading of it is not wanted.

Still open: a name look-up cannot be interrupted. The exchange is abandoned at its deadline all the
same, and an abandoned exchange gets no leave, so what is reported unsent stays unsent. Tests:
``tests/integration/broker``. Source: DESIGN D4; reliability.md §1.3.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import ssl
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError, InvariantViolatedError
from ticker_service.ports import NO_TURN, Reply, Withheld
from ticker_service.runtime.crash_points import never

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from _typeshed import ReadableBuffer, WriteableBuffer
    from urllib3 import HTTPResponse, ProxyManager

    from ticker_service.runtime.clock import Clock
    from ticker_service.runtime.crash_points import Reach

CHUNK_BYTES: Final = 16 << 10
IDLE_NS_MAX: Final = 20 * NS_PER_S
"""A kept connection that rested longer is opened anew. Load balancers close theirs after 60 s and
more, and a request on a connection that the other side is just closing has an unknown outcome."""


@functools.cache
def tls_context(ca_certificates: str = DEFAULT_CA_BUNDLE_PATH) -> ssl.SSLContext:
    """Return what verifies servers against a PEM file, read once for all sessions.

    Reading the certificates takes some 20 ms, at every account's start if each had its own.
    """
    context = ssl.create_default_context(cafile=ca_certificates)
    context.sslsocket_class = _BoundTlsSocket
    return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """How requests leave this machine; Kite takes orders from registered addresses only.

    ``proxy`` is an ``http://`` proxy, its password kept out of ``repr``. ``ca_certificates`` is a
    PEM file that replaces the certificates shipped with ``requests``.
    """

    source_address: str | None = None
    proxy: str | None = field(default=None, repr=False)
    ca_certificates: str | None = None

    def __post_init__(self) -> None:
        """Refuse a proxy whose own TLS would escape the total deadline."""
        if self.proxy is not None and urlsplit(self.proxy).scheme != "http":
            raise ConfigurationError(
                "Condition failed: the egress proxy must be an http:// address"
            )


class DeadlinePassed(TimeoutError):  # noqa: N818 - says what happened
    """The exchange's time is over, or nobody waits for it any more."""


class AnswerTooLarge(ValueError):  # noqa: N818 - says what happened
    """The body exceeds what the exchange takes."""


class Answered(Exception):  # noqa: N818 - not an error
    """Unwinds the official client once the answer is recorded."""


def _at_once(_: int) -> bool:
    return True


class Exchange:
    """What is known of one request, from before its first byte to its answer.

    Thread/Task: the worker that performs the request writes it, the task that awaits the worker may
    abandon it at any moment; the lock decides which of the two comes first.
    """

    def __init__(
        self,
        *,
        deadline_ns: int,
        clock: Clock,
        bytes_max: int,
        reach: Reach = never,
        leave_by_ns: int | None = None,
        turn: Callable[[int], bool] = _at_once,
    ) -> None:
        """Begin with nothing sent.

        Args:
            deadline_ns: Monotonic instant at which everything about it ends.
            clock: Tells the deadline.
            bytes_max: Largest body, after decompression.
            reach: Called at C4, request written, and C5, answer read; for orders only.
            leave_by_ns: Monotonic instant after which nothing leaves; the deadline if not given.
            turn: Asked right before the first byte, with ``leave_by_ns``; may wait until then, and
                says whether it may leave at all.
        """
        self.bytes_max = bytes_max
        self.reach = reach
        self._deadline_ns = deadline_ns
        self._leave_by_ns = deadline_ns if leave_by_ns is None else leave_by_ns
        self._clock = clock
        self._turn = turn
        self._has_no_turn = False
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._may_have_left = False
        self._answer: tuple[int, str, bytes] | None = None

    def now_ns(self) -> int:
        """Return the monotonic time."""
        return self._clock.monotonic_ns()

    def left_ns(self) -> int:
        """Return the time left, 0 when there is none."""
        return max(self._deadline_ns - self._clock.monotonic_ns(), 0)

    def remaining_s(self) -> float:
        """Return the seconds left.

        Raises:
            DeadlinePassed: None are.
        """
        left_ns = self.left_ns()
        if not left_ns:
            raise DeadlinePassed("the request's time is over")
        return left_ns / NS_PER_S

    def leave(self) -> None:
        """Record that bytes of the request are about to be written.

        Raises:
            DeadlinePassed: They must not be any more, and have not been.
        """
        # Not under the lock: whoever abandons it must not wait as well.
        if not self._may_have_left and not self._turn(self._leave_by_ns):
            self._has_no_turn = True
            raise DeadlinePassed(NO_TURN)
        with self._lock:
            if not self._may_have_left:
                if self._is_abandoned:
                    raise DeadlinePassed("nobody waits for the request any more")
                self.remaining_s()
                if self.now_ns() >= self._leave_by_ns:
                    raise DeadlinePassed("the time to send the request is over")
                self._may_have_left = True

    def answered(self, status: int, content_type: str, body: bytes) -> None:
        """Record the whole answer."""
        with self._lock:
            self._answer = (status, content_type, body)

    def answer(self) -> tuple[int, bytes]:
        """Return status and body of the answer, which there must be."""
        with self._lock:
            if self._answer is None:
                raise InvariantViolatedError("Invariant: an answer was asked for and there is none")
            return self._answer[0], self._answer[2]

    def abandon(self, failure: str) -> Reply:
        """Stop waiting: what has not left by now never will; return what is known by now."""
        with self._lock:
            self._is_abandoned = True
            return self._observed(failure)

    def reply(self, failure: str) -> Reply:
        """Return what was observed; ``failure`` says why there is no answer, if there is none."""
        with self._lock:
            return self._observed(failure)

    def _observed(self, failure: str) -> Reply:
        if self._answer is None:
            withheld = Withheld.MAY_HAVE_LEFT if self._may_have_left else Withheld.NOTHING_LEFT
            return Reply(withheld=withheld, failure=NO_TURN if self._has_no_turn else failure)
        status, content_type, body = self._answer
        return Reply(
            http_status=status, content_type=content_type, body=json_object(content_type, body)
        )


_current: ContextVar[Exchange] = ContextVar("kite_exchange")
"""The exchange of this thread. Connections outlive exchanges and have no other way to find it."""


@contextlib.contextmanager
def performing(exchange: Exchange) -> Iterator[None]:
    """Make ``exchange`` the one that requests of this thread belong to."""
    token = _current.set(exchange)
    try:
        yield
    finally:
        _current.reset(token)


def json_object(content_type: str, body: bytes) -> dict[str, object] | None:
    """Return a JSON object with exact numbers, None if the body is none or not called one."""
    if "json" not in content_type.lower():
        return None
    try:
        value = json.loads(body, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class KiteSession(requests.Session):
    """The session that ``kiteconnect`` sends with; every request must be within an exchange."""

    def __init__(self, egress: Egress, *, connections_max: int) -> None:
        """Open nothing yet; ``connections_max`` is how many are kept warm."""
        super().__init__()
        self.trust_env = False
        # Only what the body's limit was tested with; brotli and zstd depend on what is installed.
        self.headers["Accept-Encoding"] = "gzip"
        self._proxies = (
            {} if egress.proxy is None else dict.fromkeys(("http", "https"), egress.proxy)
        )
        line = _Line(egress, connections_max=connections_max)
        for scheme in ("http://", "https://"):
            self.mount(scheme, line)

    def send(self, request: requests.PreparedRequest, **_: object) -> NoReturn:
        """Send once and record the whole answer.

        The caller's ``allow_redirects``, ``timeout``, ``verify`` and ``proxies`` are not asked.

        Raises:
            Answered: Always when there is an answer, of whatever status.
        """
        exchange = _current.get(None)
        if exchange is None:
            raise InvariantViolatedError("Invariant: a request to Kite outside of an exchange")
        response = self.get_adapter(request.url or "").send(
            request, stream=True, timeout=exchange.remaining_s(), proxies=self._proxies
        )
        with contextlib.closing(response):
            body = _bounded(response.raw, exchange.bytes_max)
        content_type = response.headers.get("content-type", "")
        exchange.answered(response.status_code, content_type, body)
        exchange.reach("C5")
        raise Answered


def _bounded(raw: HTTPResponse, bytes_max: int) -> bytes:
    body = bytearray()
    for part in raw.stream(CHUNK_BYTES, decode_content=True):
        body += part
        if len(body) > bytes_max:
            raise AnswerTooLarge(f"the answer exceeds {bytes_max} bytes")
    return bytes(body)


class _Line(HTTPAdapter):
    """Our connections under ``requests``, TLS always verified with one context read once."""

    def __init__(self, egress: Egress, *, connections_max: int) -> None:
        self._tls = tls_context(egress.ca_certificates or DEFAULT_CA_BUNDLE_PATH)
        self._source = None if egress.source_address is None else (egress.source_address, 0)
        super().__init__(pool_connections=1, pool_maxsize=connections_max, max_retries=0)

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,  # noqa: FBT001, FBT002 - the base class has it so
        **_: object,
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, source_address=self._source)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **_: object) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, source_address=self._source)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        url = urlsplit(request.url or "")
        host = {"scheme": url.scheme, "host": url.hostname, "port": url.port}
        return host, {"ssl_context": self._tls} if url.scheme == "https" else {}

    def cert_verify(self, *_: object) -> None:
        """Leave the pool alone: ``requests`` would read its certificates anew per connection."""


class _BoundSocket(socket.socket):
    """A socket none of whose waits outlasts the exchange, however the bytes dribble in."""

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(_current.get().remaining_s())
        return super().recv_into(buffer, nbytes or 0, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        self.settimeout(_current.get().remaining_s())
        super().sendall(data, flags)


class _BoundTlsSocket(_BoundSocket, ssl.SSLSocket):
    """The same under TLS; a handshake has one timeout of its own, set when it begins."""


class _Recorded(HTTPConnection):
    """A connection that asks for leave before a request's first byte, and knows its age."""

    _is_connecting = False
    _used_at_ns = 0

    def _new_conn(self) -> socket.socket:
        exchange = _current.get()
        self.timeout = exchange.remaining_s()
        plain = super()._new_conn()
        bound = _BoundSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
        try:
            bound.settimeout(exchange.remaining_s())
        except DeadlinePassed:
            bound.close()
            raise
        return bound

    def connect(self) -> None:
        # What a proxy is asked for meanwhile (CONNECT) is no byte of the request.
        self._is_connecting = True
        try:
            super().connect()
        finally:
            self._is_connecting = False

    def send(self, data: Any) -> None:  # noqa: ANN401 - as http.client takes it
        if self.sock is None:
            self.connect()
        if not self._is_connecting:
            _current.get().leave()
        super().send(data)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3's own
        exchange = _current.get()
        exchange.reach("C4")
        response = super().getresponse()
        self._used_at_ns = exchange.now_ns()
        return response

    @property
    def is_connected(self) -> bool:
        """Whether it may be used again; the pool closes it otherwise, before any byte is sent."""
        idle_ns = _current.get().now_ns() - self._used_at_ns
        return super().is_connected and idle_ns < IDLE_NS_MAX


class _RecordedTls(_Recorded, HTTPSConnection):
    """The same under TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Recorded


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _RecordedTls


_POOLS: Final = {"http": _Pool, "https": _TlsPool}
