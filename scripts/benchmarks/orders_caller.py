"""Callers as a process: so many orders a second on each account, each account a caller's own.

Started by the suite ``orders``. Orders leave by the clock, whether earlier ones were answered or
not: a daemon that is late does not get fewer of them. Each is noted right before its frame is
written; the wait in this process and on the socket counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

import orjson
import uvloop

from ticker_service.client import OrderClient, OrderDoorClosed, OrderError
from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_AT_ONCE_MAX: Final = 10


def main() -> None:
    """Read what to do from standard input, connect, say so; call when told; print what was seen."""
    uvloop.run(_call(orjson.loads(sys.stdin.buffer.readline())))


async def _call(told: Mapping[str, Any]) -> None:
    clock = SystemClock()
    sent_ns: dict[str, int] = {}
    acked_ms: list[float] = []
    refused: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        clients = {
            account: await stack.enter_async_context(OrderClient(told["url"], token))
            for account, token in told["tokens"].items()
        }
        _say("connected")
        await asyncio.to_thread(sys.stdin.buffer.readline)

        async def place(account: str, name: str) -> None:
            began_ns = sent_ns[name] = clock.now_ns()
            try:
                await clients[account].place(name, account, told["order"])
            except OrderError as error:
                refused[name] = str(error.answer.get("code"))
            except OrderDoorClosed:
                refused[name] = "NO_REPLY"
            else:
                acked_ms.append((clock.now_ns() - began_ns) / NS_PER_MS)

        async with asyncio.TaskGroup() as tasks:
            began_ns = clock.monotonic_ns()
            gap_ns = NS_PER_S / told["per_s"] / len(clients)
            accounts = list(clients)
            for number in range(told["orders"]):
                due_ns = began_ns + round(number * gap_ns)
                if (early_ns := due_ns - clock.monotonic_ns()) > 0:
                    await asyncio.sleep(early_ns / NS_PER_S)
                account = accounts[number % len(accounts)]
                tasks.create_task(place(account, f"{told['prefix']}-{number}"))
        lasted_s = (clock.monotonic_ns() - began_ns) / NS_PER_S
    _say({"sent_ns": sent_ns, "acked_ms": acked_ms, "refused": refused, "lasted_s": lasted_s})


def _say(what: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
