"""``ticker-service tail``: one or more books as they are published."""

from __future__ import annotations

import asyncio
import sys
from enum import Enum
from typing import TYPE_CHECKING, Final

import orjson
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.styled import Styled
from rich.text import Text

from app.console.chain import ChainView
from app.console.latency import LatencyView
from app.console.silence import Silence
from ticker_service.client import TickReader
from ticker_service.errors import PublishError
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from rich.console import RenderableType

    from ticker_service.client import Message

REFRESH_PER_S: Final = 4
FIRST_MESSAGE_S_MAX: Final = 5.0


class View(Enum):
    """What to show of a book.

    ``LINES`` is every message as a line of JSON on standard output, and one of the kind ``silent``
    for every three seconds in which a book said nothing.
    """

    CHAIN = "chain"
    LINES = "lines"
    LATENCY = "latency"
    LATENCY_LINES = "latency_lines"


async def tail(
    redis_url: str,
    books: Sequence[str],
    *,
    channel_prefix: str,
    view: View,
    seconds: float | None,
) -> None:
    """Show books until ``seconds`` have passed or the caller cancels.

    Args:
        redis_url: Server to read from.
        books: Books to show.
        channel_prefix: The publisher's prefix.
        view: What to show of them.
        seconds: How long; None for ever.

    Raises:
        ConfigurationError: The address is not one of a Redis server.
        PublishError: The server does not answer, or nobody publishes these books; in a group when
            that shows only later.
    """
    reader = TickReader(redis_url, books, channel_prefix=channel_prefix)
    silence = Silence(books, now_s=_now_s())
    until = asyncio.timeout(seconds)
    began_s = _now_s()
    try:
        async with until, reader:
            await _SHOW[view](reader, books, silence, _nobody(books, channel_prefix))
    except (RedisError, OSError) as error:
        if not until.expired():
            reason = "no answer in time" if isinstance(error, TimeoutError) else error
            raise PublishError(f"Redis does not answer: {reason}") from error
    if not silence.has_heard:
        raise _nobody(books, channel_prefix)(_now_s() - began_s)


def _nobody(books: Sequence[str], channel_prefix: str) -> Callable[[float], PublishError]:
    """Return what to say when nothing came for so many seconds."""

    def fault(waited_s: float) -> PublishError:
        wrong_case = [book.upper() for book in books if book != book.upper()]
        hint = f" (names are in capitals: {', '.join(wrong_case)}?)" if wrong_case else ""
        return PublishError(
            f"nothing was published for {', '.join(books)} within {waited_s:.0f} s{hint}; "
            f"is a daemon running with channel prefix {channel_prefix!r}?"
        )

    return fault


async def _lines(
    reader: TickReader,
    _: Sequence[str],
    silence: Silence,
    nobody: Callable[[float], PublishError],
) -> None:
    def show(body: dict[str, object]) -> None:
        sys.stdout.buffer.write(orjson.dumps(body) + b"\n")
        sys.stdout.buffer.flush()

    async def take(message: Message) -> None:
        show({**message.body, "kind": message.kind})

    def look() -> None:
        for book, silent_s in silence.news(now_s=_now_s()).items():
            show({"kind": "silent", "book": book, "silent_s": round(silent_s, 1)})

    await _follow(reader, take, look, silence, nobody)


async def _latency_lines(
    reader: TickReader,
    books: Sequence[str],
    silence: Silence,
    nobody: Callable[[float], PublishError],
) -> None:
    """Write one line of JSON a second and book with where its ticks spent their time."""
    views = {book: LatencyView(book) for book in books}
    due_s = _now_s() + 1.0

    def look() -> None:
        nonlocal due_s
        if _now_s() < due_s:
            return
        due_s += 1.0
        for book, view in views.items():
            facts = {"kind": "latency", "book": book, "rows": view.rows, **view.figures()}
            sys.stdout.buffer.write(orjson.dumps(facts) + b"\n")
        sys.stdout.buffer.flush()

    await _follow(reader, _taker(views), look, silence, nobody)


async def _latency_tables(
    reader: TickReader,
    books: Sequence[str],
    silence: Silence,
    nobody: Callable[[float], PublishError],
) -> None:
    views = {book: LatencyView(book) for book in books}
    with Live(console=Console(), auto_refresh=False, screen=False, transient=False) as live:

        def look() -> None:
            live.update(Group(*(view.table() for view in views.values())), refresh=True)

        await _follow(reader, _taker(views), look, silence, nobody)


def _taker(views: Mapping[str, LatencyView]) -> Callable[[Message], Awaitable[None]]:
    """Return what gives every batch to its book's view, with the time it came."""
    clock = SystemClock()

    async def take(message: Message) -> None:
        if message.kind == "batch":
            views[message.book].take(
                message.body["columns"],
                published_at_us=message.body["published_at_us"],
                now_ns=clock.now_ns(),
            )

    return take


async def _tables(
    reader: TickReader,
    books: Sequence[str],
    silence: Silence,
    nobody: Callable[[float], PublishError],
) -> None:
    views = {book: ChainView(book) for book in books}
    console = Console()
    with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:

        async def take(message: Message) -> None:
            await apply(views, message, reader)

        def look() -> None:
            silent = silence.silent(now_s=_now_s())
            live.update(render(views, width=console.width, silent_s=silent), refresh=True)

        await _follow(reader, take, look, silence, nobody)


async def _follow(
    reader: TickReader,
    take: Callable[[Message], Awaitable[None]],
    look: Callable[[], None],
    silence: Silence,
    nobody: Callable[[float], PublishError],
) -> None:
    """Take every message and look a few times a second, until cancelled or nobody is there."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_take_all(reader, take, silence), name="read")
        began_s = _now_s()
        while True:
            await asyncio.sleep(1.0 / REFRESH_PER_S)
            if silence.has_heard:
                look()
            elif _now_s() - began_s >= FIRST_MESSAGE_S_MAX:
                raise nobody(FIRST_MESSAGE_S_MAX)


async def _take_all(
    reader: TickReader, take: Callable[[Message], Awaitable[None]], silence: Silence
) -> None:
    try:
        async for message in reader:
            silence.hear(message.book, now_s=_now_s())
            await take(message)
    except (RedisError, OSError) as error:
        raise PublishError(f"Redis does not answer: {error}") from error


_SHOW: Final = {
    View.CHAIN: _tables,
    View.LINES: _lines,
    View.LATENCY: _latency_tables,
    View.LATENCY_LINES: _latency_lines,
}


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def apply(views: dict[str, ChainView], message: Message, reader: TickReader) -> None:
    """Give a message to its book's view; a book's first one also fetches its instruments."""
    view = views[message.book]
    if not view.instruments:
        view.instruments = await reader.instruments(message.book)
    view.take(message)


def render(
    views: dict[str, ChainView], *, width: int, silent_s: Mapping[str, float] | None = None
) -> Group:
    """Return all views below each other, with what was announced last.

    Args:
        views: Each book's view.
        width: Columns of the terminal.
        silent_s: For how long a book has said nothing, where that is worth a word; such a book's
            figures are dimmed, because they are no longer news.
    """
    parts: list[RenderableType] = []
    for view in views.values():
        table = view.table(width=width)
        wait_s = (silent_s or {}).get(view.book)
        if wait_s is None:
            parts.append(table)
        else:
            parts.append(Text(f"{view.book}: publisher silent for {wait_s:.0f} s", style="bold"))
            parts.append(Styled(table, "dim"))
        parts.extend(Text(notice, style="dim") for notice in view.notices)
    return Group(*parts)
