"""What a demo calls itself on servers that are not its own, and how it leaves them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_PREFIX: Final = "ticker:v1:"
DEFAULT_ACCOUNT: Final = "DEMO"
RUN_BYTES: Final = 2
CLEAR_S_MAX: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of one run.

    Attributes:
        run: Four random hex digits that set this run's orders apart from other runs' in a journal.
        channel_prefix: The daemon's; of this run alone on a server that others use.
        account: The trading account; of this run alone in a database that others use.
    """

    run: str
    channel_prefix: str
    account: str

    def tail_options(self) -> str:
        """Return what ``tail`` has to be told about them, with a space before it."""
        if self.channel_prefix == DEFAULT_PREFIX:
            return ""
        return f" --channel-prefix {self.channel_prefix}"


def names_of_this_run(*, is_redis_shared: bool, is_database_shared: bool) -> Names:
    """Return names under which several demos, and a real daemon, can share servers."""
    run = secrets.token_hex(RUN_BYTES)
    return Names(
        run=run,
        channel_prefix=f"demo-{os.getpid()}-{run}:v1:" if is_redis_shared else DEFAULT_PREFIX,
        account=f"{DEFAULT_ACCOUNT}-{run}" if is_database_shared else DEFAULT_ACCOUNT,
    )


async def clear_keys(redis_url: str, names: Names, books: Iterable[str]) -> None:
    """Delete every key of this run; a server that is gone by now is no fault."""
    prefix = names.channel_prefix
    kinds = ("instruments", "snapshot", "heartbeat")
    keys = [f"{prefix}{kind}:{book}" for book in books for kind in kinds]
    # A server that does not answer in time must not hold up the end either.
    with contextlib.suppress(RedisError, OSError, ValueError):
        async with asyncio.timeout(CLEAR_S_MAX), Redis.from_url(redis_url) as client:
            await client.delete(*keys, f"{prefix}orderlog:{names.account}")
