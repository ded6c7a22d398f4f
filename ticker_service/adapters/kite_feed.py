"""Kite's market data WebSocket: connect, subscribe, notice silence, reconnect. Port ``FeedSource``.

Our own asyncio client instead of the official one, which runs a Twisted reactor that cannot be
restarted and never notices a dead socket (DESIGN D5). Source of the protocol: kite.md §1.1 to §1.3,
§1.8 and §1.9.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

import orjson
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    InvalidURI,
    WebSocketException,
)

from ticker_service.config import CONNECTIONS_MAX, TOKENS_PER_CONNECTION_MAX
from ticker_service.constants import NS_PER_S
from ticker_service.errors import ConfigurationError
from ticker_service.ports import FeedDown, FeedText, FeedUp, Frame
from ticker_service.runtime.pacing import Backoff

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from websockets.asyncio.client import ClientConnection

    from ticker_service.config import KiteConfig
    from ticker_service.domain.tick import Mode
    from ticker_service.ports import AccessTokenSource, ConnectGate, FeedLogin, FeedSink, Leave
    from ticker_service.runtime.clock import Clock

log = structlog.get_logger()

CONNECT_S_MAX: Final = 10.0
SILENCE_S_MAX: Final = 5.0
"""Kite sends a heartbeat about every second; without any frame for this long the socket is dead."""
SEND_S_MAX: Final = 5.0
CLOSE_S_MAX: Final = 1.0
FRAME_BYTES_MAX: Final = 4 << 20
"""A full frame of 3,000 instruments is 558 kB; anything much larger is not a tick frame."""
FRAMES_UNREAD_MAX: Final = 1_024
"""BLOCK: more stay in the socket. Frames go straight to the inbox, which has the limit; but nothing
is read while we subscribe, and whoever does not take our requests could fill our memory."""
TOKENS_PER_MESSAGE_MAX: Final = 500
STABLE_S: Final = 30.0
"""A connection that lived this long was a success: the next failure starts the backoff anew."""
RECONNECT: Final = Backoff(delay_s_min=0.5, delay_s_max=15.0)
HTTP_FORBIDDEN: Final = 403
HTTP_SERVER_FAULT: Final = 500
GATE_S_MIN: Final = 0.05
GATE_S_MAX: Final = 1.0
"""How often a connection looks whether it may be tried; another one's probe may let it earlier."""
NO_TOKEN: Final = "no_access_token"  # noqa: S105 - says that there is none
FAILOVER_AFTER_S: Final = 20.0
"""A connection that stays down so long with one account's login tries the next account's."""
HELD_S: Final = 5.0
"""A connection that spoke for so long was not down: it is the next failure that counts."""
REST_S: Final = 300.0
"""An account that a connection has left is tried again after this, if the others fail, too."""
REFUSED_MAX: Final = 64
"""So many refused tokens are remembered; each took a login, so that is weeks."""


class _Connect(connect):
    """The library's connector without its redirects: the token in the query goes nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception:
        """Take a redirect for what it is here, a failed attempt."""
        return exc


class KiteFeed:
    """Up to three connections of one api_key, sharing the wanted instruments between them."""

    def __init__(
        self,
        config: KiteConfig,
        *,
        tokens: AccessTokenSource,
        clock: Clock,
        chance: random.Random,
        gate: ConnectGate | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            config: Where Kite is, and the api_key.
            tokens: What to log in with.
            clock: When what happened.
            chance: Jitter.
            gate: Decides whether a connection is tried; each may if not given.
        """
        self._carrier: dict[int, int] = {}
        login = _Login(tokens)
        self._connections = [
            _Connection(number, config, login, gate or _AlwaysOpen(), clock=clock, chance=chance)
            for number in range(CONNECTIONS_MAX)
        ]

    def want(self, modes: Mapping[int, Mode]) -> None:
        """Make ``token -> mode`` the whole of what is subscribed, now and after a reconnect.

        A token stays on the connection it has; new ones fill the first connection with room.

        Raises:
            ConfigurationError: More tokens than the connections of one api_key carry.
        """
        limit = CONNECTIONS_MAX * TOKENS_PER_CONNECTION_MAX
        if len(modes) > limit:
            raise ConfigurationError(
                f"{len(modes)} instruments wanted, one api_key carries {limit}"
            )
        self._carrier = {t: n for t, n in self._carrier.items() if t in modes}
        load = [0] * CONNECTIONS_MAX
        for number in self._carrier.values():
            load[number] += 1
        shares: list[dict[int, Mode]] = [{} for _ in range(CONNECTIONS_MAX)]
        for token, mode in modes.items():
            if token not in self._carrier:
                roomy = (n for n, used in enumerate(load) if used < TOKENS_PER_CONNECTION_MAX)
                self._carrier[token] = next(roomy)
                load[self._carrier[token]] += 1
            shares[self._carrier[token]][token] = mode
        for connection, share in zip(self._connections, shares, strict=True):
            connection.want(share)

    def connection_of(self, instrument_token: int) -> int | None:
        """Return the number of the connection that carries a token, if it is subscribed."""
        return self._carrier.get(instrument_token)

    def renew(self, connection: int) -> None:
        """Close a connection that is open, so that it is opened and subscribed anew."""
        self._connections[connection].renew()

    async def run(self, sink: FeedSink) -> None:
        """Receive until cancelled; a connection whose token was refused waits for another one."""
        async with asyncio.TaskGroup() as tasks:
            for connection in self._connections:
                tasks.create_task(connection.run(sink), name=f"feed-{connection.number}")


class _Login:
    """The logins to connect with; a token that the broker refused is never tried again (M8)."""

    def __init__(self, tokens: AccessTokenSource) -> None:
        self._tokens = tokens
        self._refused: deque[str] = deque(maxlen=REFUSED_MAX)

    def usable(self) -> list[FeedLogin]:
        """Return the logins that may be tried, in order; none when only a new login helps."""
        candidates = self._tokens.candidates()
        return [each for each in candidates if each.access_token not in self._refused]

    def refuse(self, login: FeedLogin) -> None:
        """Note that the broker refused one."""
        if login.access_token not in self._refused:
            self._refused.append(login.access_token)
            log.warning("feed_login_refused", account=login.account)

    async def renewed(self) -> None:
        """Return once there is a login to try."""
        await self._tokens.other_than(self._refused)


class _Turns:
    """Whose login a connection uses: it stays with an account until that fails for a while.

    It never goes back by itself while the other serves, because every change costs a gap.
    """

    def __init__(self, login: _Login) -> None:
        self._login = login
        self._account: str | None = None
        self._opened_by: str | None = None
        self._down_since_ns: int | None = None
        self._rests_until_ns: dict[str, int] = {}

    def choose(self, now_ns: int) -> FeedLogin | None:
        """Return what to connect with now, None when only a new login helps."""
        usable = self._login.usable()
        if not usable:
            return None
        awake = [each for each in usable if self._rests_until_ns.get(each.account, 0) <= now_ns]
        if not awake:
            awake = [min(usable, key=lambda each: self._rests_until_ns[each.account])]
        chosen = next((each for each in awake if each.account == self._account), awake[0])
        if self._account is None:
            self._opened_by = chosen.account
        self._account = chosen.account
        return chosen

    def opened(self) -> bool:
        """Note that the chosen login opened the connection; return whether another did before."""
        is_other = self._opened_by != self._account
        self._opened_by = self._account
        return is_other

    def ended(self, now_ns: int, *, began_ns: int, held_s: float, is_given_up: bool) -> None:
        """Note that the connection is gone; after a while of that it is the next account's turn.

        Args:
            now_ns: The present, monotonic, ns.
            began_ns: When it was tried, likewise.
            held_s: From its opening to its last frame: waiting for what never came is not holding.
            is_given_up: It was open and brought nothing.
        """
        if held_s >= HELD_S:
            self._down_since_ns = now_ns
        elif self._down_since_ns is None:
            self._down_since_ns = began_ns
        is_long = now_ns - self._down_since_ns >= FAILOVER_AFTER_S * NS_PER_S
        if self._account is not None and (is_long or is_given_up):
            self._rests_until_ns[self._account] = now_ns + int(REST_S * NS_PER_S)
            self._down_since_ns = None


class _AlwaysOpen:
    """The ``ConnectGate`` of who tries whenever it wants, and the ``Leave`` it gives."""

    retry_in_s = 0.0

    def ask(self) -> Self:
        return self

    def succeeded(self) -> None:
        return

    def failed(self) -> None:
        return

    def release(self) -> None:
        return


class _Connection:
    """One WebSocket and what it should carry; reconnects by itself."""

    def __init__(
        self,
        number: int,
        config: KiteConfig,
        login: _Login,
        gate: ConnectGate,
        *,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self.number = number
        self._config = config
        self._login = login
        self._turns = _Turns(login)
        self._is_given_up = False
        self._held_s = 0.0
        self._gate = gate
        self._clock = clock
        self._chance = chance
        self._desired: dict[int, Mode] = {}
        self._changed = asyncio.Event()
        self._last_frame_ns = 0
        self._socket: ClientConnection | None = None

    def want(self, desired: dict[int, Mode]) -> None:
        if desired != self._desired:
            self._desired = desired
            self._changed.set()

    def renew(self) -> None:
        if self._socket is not None:
            self._is_given_up = True
            self._socket.transport.abort()

    async def run(self, sink: FeedSink) -> None:
        """Stay connected while anything is wanted and a token for it is there."""
        attempt = 0
        while True:
            while not self._desired:
                self._changed.clear()
                await self._changed.wait()
            leave = await self._allowed()
            began_ns = self._clock.monotonic_ns()
            self._is_given_up, self._held_s = False, 0.0
            try:
                down = await self._session(sink, leave)
            finally:
                leave.release()
            sink.put_event(down)
            ended_ns = self._clock.monotonic_ns()
            self._turns.ended(
                ended_ns, began_ns=began_ns, held_s=self._held_s, is_given_up=self._is_given_up
            )
            if down.login_required:
                await self._login.renewed()
                log.info("feed_has_new_token", connection=self.number)
                attempt = 0
                continue
            lived_s = (ended_ns - began_ns) / NS_PER_S
            attempt = 0 if lived_s >= STABLE_S else attempt + 1
            await asyncio.sleep(RECONNECT.delay_s(attempt, self._chance))

    async def _allowed(self) -> Leave:
        """Wait for leave to connect: all connections of a broker that is down try one at a time."""
        while True:
            leave = self._gate.ask()
            if leave is not None:
                return leave
            wait_s = max(self._gate.retry_in_s, GATE_S_MIN)
            await asyncio.sleep(min(wait_s, GATE_S_MAX))

    async def _session(self, sink: FeedSink, leave: Leave) -> FeedDown:
        """Connect, subscribe and read until something ends it; say what."""
        self._last_frame_ns = self._last_frame_ns or self._clock.now_ns()
        login = self._turns.choose(self._clock.monotonic_ns())
        if login is None:
            return self._down(NO_TOKEN, login_required=True)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                socket = await _Connect(
                    _url(self._config, login),
                    compression=None,
                    max_size=FRAME_BYTES_MAX,
                    max_queue=FRAMES_UNREAD_MAX,
                    ping_interval=None,  # liveness is any inbound frame, as Kite's heartbeats are
                    open_timeout=None,
                    close_timeout=CLOSE_S_MAX,
                    proxy=None,  # the environment must not redirect the feed
                    additional_headers={"X-Kite-Version": "3"},
                    user_agent_header="ticker-service",
                )
        except InvalidStatus as error:
            status = error.response.status_code
            if status >= HTTP_SERVER_FAULT:
                leave.failed()
            else:
                leave.succeeded()  # it answered; what it said is about us
            if status == HTTP_FORBIDDEN:
                self._login.refuse(login)
            is_last = status == HTTP_FORBIDDEN and not self._login.usable()
            return self._down(f"http_{status}", login_required=is_last)
        except TimeoutError:
            leave.failed()
            return self._down("connect_timeout")
        except (OSError, ValueError, InvalidHandshake, InvalidURI, WebSocketException) as error:
            leave.failed()
            return self._down(f"connect_failed: {type(error).__name__}")
        try:
            return await self._converse(socket, sink, leave, login)
        finally:
            # A goodbye is worth a moment, no more: the library's own close waits without limit
            # for a send buffer that the other side no longer empties.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S_MAX):
                    await socket.close()
            socket.transport.abort()

    async def _converse(
        self, socket: ClientConnection, sink: FeedSink, leave: Leave, login: FeedLogin
    ) -> FeedDown:
        # The first subscription goes out before anything is read, and FeedUp before anything that
        # was: what comes meanwhile waits in the library, so that no tick overtakes the gap (M6).
        actual = dict(self._desired)
        self._changed.clear()
        if not await self._request(socket, {}, actual):
            leave.failed()
            return self._down("closed_while_subscribing")
        leave.succeeded()
        up = FeedUp(
            connection=self.number,
            at_ns=self._clock.now_ns(),
            account=login.account,
            is_failover=self._turns.opened(),
        )
        sink.put_event(up)
        self._socket = socket
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._keep_subscribed(socket, actual))
            try:
                reason = await self._read(socket, sink)
            finally:
                self._socket = None
                writer.cancel()
        return self._down(reason)

    async def _read(self, socket: ClientConnection, sink: FeedSink) -> str:
        """Pass on every message until the socket closes or falls silent; return the reason."""
        loop = asyncio.get_running_loop()
        opened_s = heard_s = loop.time()
        try:
            async with asyncio.timeout(SILENCE_S_MAX) as patience:
                while True:
                    message = await socket.recv()
                    heard_s = loop.time()
                    patience.reschedule(heard_s + SILENCE_S_MAX)
                    self._last_frame_ns = self._clock.now_ns()
                    if isinstance(message, bytes):
                        sink.put_frame(Frame(self._last_frame_ns, message, self.number))
                    else:
                        text = read_text(message, connection=self.number, at_ns=self._last_frame_ns)
                        sink.put_event(text)
        except TimeoutError:
            return "silent"
        except ConnectionClosed as error:
            return f"closed_{error.rcvd.code}" if error.rcvd else "closed_abruptly"
        finally:
            self._held_s = heard_s - opened_s

    async def _keep_subscribed(self, socket: ClientConnection, actual: dict[int, Mode]) -> None:
        """Bring the server's subscription to what is wanted, on every change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            desired = dict(self._desired)
            if not await self._request(socket, actual, desired):
                # A request that did not leave would be missing for ever: begin anew.
                socket.transport.abort()
                return
            actual = desired

    async def _request(
        self, socket: ClientConnection, actual: Mapping[int, Mode], desired: Mapping[int, Mode]
    ) -> bool:
        """Send what turns one subscription into the other; return whether all of it left."""
        try:
            for message in _difference(actual, desired):
                async with asyncio.timeout(SEND_S_MAX):
                    await socket.send(message)
        except (ConnectionClosed, TimeoutError):
            return False
        return True

    def _down(self, reason: str, *, login_required: bool = False) -> FeedDown:
        return FeedDown(
            connection=self.number,
            at_ns=self._clock.now_ns(),
            last_frame_ns=self._last_frame_ns,
            reason=reason,
            login_required=login_required,
        )


def read_text(message: str, *, connection: int, at_ns: int) -> FeedText:
    """Read a text message; one we cannot read is passed on as such, never fatal."""
    kind, data = "unreadable", None
    try:
        parsed: Any = orjson.loads(message)
    except orjson.JSONDecodeError:
        data = message[:200]
    else:
        if isinstance(parsed, dict) and isinstance(parsed.get("type"), str):
            is_known = parsed["type"] in {"order", "error", "message"}
            kind = parsed["type"] if is_known else "unknown"
            data = parsed.get("data")
    return FeedText(connection=connection, at_ns=at_ns, kind=kind, data=data)


def _url(config: KiteConfig, login: FeedLogin) -> str:
    """Return the address with its query; the token is in it, so it is never logged."""
    query = [
        ("api_key", login.api_key or config.api_key),
        ("access_token", login.access_token),
        *config.extra_parameters,
    ]
    return f"{config.ws_root}?{urlencode(query)}"


def _difference(actual: Mapping[int, Mode], desired: Mapping[int, Mode]) -> list[str]:
    """Return the requests that turn one subscription into the other, bounded in size each."""
    dropped = [token for token in actual if token not in desired]
    added = [token for token in desired if token not in actual]
    changed: dict[Mode, list[int]] = {}
    for token, mode in desired.items():
        if actual.get(token) is not mode:
            changed.setdefault(mode, []).append(token)
    # Dropping comes first, so that a full connection has room for what follows.
    requests: list[dict[str, object]] = []
    requests += [{"a": "unsubscribe", "v": part} for part in _parts(dropped)]
    requests += [{"a": "subscribe", "v": part} for part in _parts(added)]
    for mode, tokens in changed.items():
        requests += [{"a": "mode", "v": [mode.wire_name, part]} for part in _parts(tokens)]
    return [orjson.dumps(request).decode() for request in requests]


def _parts(tokens: list[int]) -> list[list[int]]:
    size = TOKENS_PER_MESSAGE_MAX
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]
