"""``ticker-service tail``: one or more books as they are published."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Final

import orjson
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from app.console.chain import ChainView
from ticker_service.client import TickReader
from ticker_service.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.client import Message

REFRESH_PER_S: Final = 4
FIRST_MESSAGE_S_MAX: Final = 5.0


async def tail(
    redis_url: str,
    books: Sequence[str],
    *,
    channel_prefix: str,
    as_json: bool,
    seconds: float | None,
) -> None:
    """Show books until ``seconds`` have passed or the caller cancels.

    Args:
        redis_url: Server to read from.
        books: Books to show.
        channel_prefix: The publisher's prefix.
        as_json: Write every message as a line of JSON on standard output instead of a table.
        seconds: How long; None for ever.

    Raises:
        PublishError: The server does not answer, or nobody publishes these books.
    """
    try:
        async with (
            asyncio.timeout(seconds),
            TickReader(redis_url, books, channel_prefix=channel_prefix) as reader,
        ):
            await (_lines(reader) if as_json else _tables(reader, books))
    except TimeoutError:
        if seconds is None:
            raise PublishError(
                f"nothing was published for {', '.join(books)} within {FIRST_MESSAGE_S_MAX:.0f} s; "
                f"is a daemon running with channel prefix {channel_prefix!r}?"
            ) from None
    except (RedisError, OSError) as error:
        raise PublishError(f"Redis does not answer: {error}") from error


async def _lines(reader: TickReader) -> None:
    out = sys.stdout.buffer
    async for message in reader:
        out.write(orjson.dumps({**message.body, "kind": message.kind}) + b"\n")
        out.flush()


async def _tables(reader: TickReader, books: Sequence[str]) -> None:
    views = {book: ChainView(book) for book in books}
    console = Console()
    with Live(console=console, auto_refresh=False, screen=False, transient=False) as live:
        shown_at_s = 0.0
        clock = asyncio.get_running_loop().time
        async for message in reader:
            await apply(views, message, reader)
            if clock() - shown_at_s >= 1.0 / REFRESH_PER_S:
                shown_at_s = clock()
                live.update(render(views, width=console.width), refresh=True)


async def apply(views: dict[str, ChainView], message: Message, reader: TickReader) -> None:
    """Give a message to its book's view; a book's first one also fetches its instruments."""
    view = views[message.book]
    if not view.instruments:
        view.instruments = await reader.instruments(message.book)
    view.take(message)


def render(views: dict[str, ChainView], *, width: int) -> Group:
    """Return all views below each other, with what was announced last."""
    parts: list[object] = []
    for view in views.values():
        parts.append(view.table(width=width))
        parts.extend(Text(notice, style="dim") for notice in view.notices)
    return Group(*parts)  # type: ignore[arg-type]  # tables and texts are renderable
