"""Suite ``orders``: from a caller's frame to the POST at the broker, with the durable journal.

Everything as it runs, each part a process: callers who send 200 orders a second over 40 accounts,
the daemon, a PostgreSQL that waits for the disk, Redis, and a simulated broker. An order's time is
from right before its frame is written, in the callers' process, to the simulator's receipt of the
POST, on the same clock of the same machine; so the doors, admission, the journal's commits, the
wait for a thread and both sockets are in it. The peer, ``orders_bare``, does the journal's own
transactions and the POST, and nothing else, at the same rate on as many connections, before and
after: what the database and the broker take here whoever asks.

Rates are latencies upside down, so that more is better; a rate of orders is by the CPU second.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
import orjson
import psycopg

from app.console.demo_parts import Relay
from app.security.tokens import Scope, TokenIssuer
from scripts.benchmarks import machine, orders_gate, orders_recovery, orders_scene, service
from scripts.benchmarks.measure import Disagreement, Options, Result
from ticker_service.constants import NS_PER_MS, NS_PER_US
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.benchmarks.orders_scene import Broker
    from scripts.benchmarks.service import Daemon

GOAL_TIMES_BARE: Final = 3.0
GOAL_MORE_MS: Final = 1.0
GOAL_P99_MS: Final = 15.0
HTTP_S_MAX: Final = 60.0
MS_PER_S: Final = 1e3
US_PER_S: Final = 1e6
SETTLE_S_MAX: Final = 60.0
LOOK_AGAIN_S: Final = 0.1
AGAINST: Final = "the same transactions and POSTs, nothing else"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extent:
    """How long is looked at, and how much; ``warm_s`` lets pass what comes once.

    ``per_s`` is the orders a second on each account.
    """

    accounts: int
    warm_s: float
    window_s: float
    per_s: float
    recovery_tasks: int


WHOLE: Final = _Extent(accounts=40, warm_s=3.0, window_s=20.0, per_s=5.0, recovery_tasks=10_000)
QUICK: Final = _Extent(accounts=4, warm_s=0.5, window_s=1.5, per_s=4.0, recovery_tasks=200)


def run(options: Options) -> list[Result]:
    """Measure bare, the daemon, and bare again; then a recovery.

    Raises:
        Disagreement: An order got lost, or was posted twice.
    """
    try:
        return asyncio.run(_measured(_extent(options)))
    except BaseExceptionGroup as group:
        # What is raised beside a running part comes out with whatever else ended there.
        disagreement = group.subgroup(Disagreement)
        if disagreement is None:
            raise
        raise Disagreement(str(_first(disagreement))) from group


def _extent(options: Options) -> _Extent:
    extent = QUICK if options.is_quick else WHOLE
    if options.orders_per_s is None:
        return extent
    return dataclasses.replace(extent, per_s=options.orders_per_s / extent.accounts)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _measured(extent: _Extent) -> list[Result]:
    relay = Relay(is_open=False)
    async with contextlib.AsyncExitStack() as stack:
        broker = await orders_scene.broker_side(stack, relay, accounts=extent.accounts)
        theirs = [await _bare(broker, extent, "before")]
        ours = await _ours(broker, relay, extent)
        theirs.append(await _bare(broker, extent, "after"))
    async with contextlib.AsyncExitStack() as stack:
        broker = await orders_scene.broker_side(stack, relay, accounts=extent.accounts)
        recovery = await orders_recovery.measured(broker, relay, tasks=extent.recovery_tasks)
    gate = await asyncio.to_thread(orders_gate.measured)
    return [*_results(ours, theirs), _gate(gate, theirs), recovery]


async def _bare(broker: Broker, extent: _Extent, prefix: str) -> dict[str, Any]:
    told = {
        "database_url": broker.database_url,
        "rest_root": broker.exchange.rest_root,
        "api_key": broker.exchange.api_key,
        "connections": orders_scene.CONNECTIONS,
        **_load(broker, extent, prefix),
    }
    return await _run("orders_bare", told, broker, extent)


async def _ours(broker: Broker, relay: Relay, extent: _Extent) -> dict[str, Any]:
    with machine.on_all_cores():
        async with service.daemon(relay, broker.daemon_settings()) as daemon:
            await daemon.opens(len(broker.tokens))
            issuer = TokenIssuer(orders_scene.KEY)
            now_ns = SystemClock().now_ns()
            tokens = {
                account: issuer.mint(
                    account,
                    scopes=[Scope.ORDERS_READ, Scope.ORDERS_WRITE],
                    accounts=[account],
                    lifetime_s=3_600,
                    now_ns=now_ns,
                )
                for account in broker.tokens
            }
            told = _load(broker, extent, "ours") | {"url": daemon.orders_ws_url, "tokens": tokens}
            order = {**broker.order, "quantity": 1}
            return await _run("orders_caller", told | {"order": order}, broker, extent, daemon)


def _load(broker: Broker, extent: _Extent, prefix: str) -> dict[str, Any]:
    per_s = extent.per_s * len(broker.tokens)
    return {
        "prefix": prefix,
        "order": broker.order,
        "per_s": extent.per_s,
        "orders": round((extent.warm_s + extent.window_s) * per_s),
        "tokens": broker.tokens,
    }


async def _run(
    name: str,
    told: Mapping[str, Any],
    broker: Broker,
    extent: _Extent,
    daemon: Daemon | None = None,
) -> dict[str, Any]:
    """Let one side send its orders; return what it took each to reach the broker, and more."""
    with machine.on_all_cores(), service.module(name) as process:
        service.say(orjson.dumps(told) + b"\n", process.stdin)
        await service.line_of(process)  # it is connected
        before = await daemon.metrics() if daemon else {}
        after_number = await _last_entry(broker)
        service.say(b"\n", process.stdin)
        seen: dict[str, Any] = await service.line_of(process)
        after = await daemon.metrics() if daemon else {}
    refused = seen.get("refused", {})
    taken = [name for name in seen["sent_ns"] if name not in refused]
    received_ns = await _received(broker, taken, after_number)
    took_ms = np.array([(received_ns[name] - seen["sent_ns"][name]) / NS_PER_MS for name in taken])
    warm = round(extent.warm_s * len(took_ms) / (extent.warm_s + extent.window_s))
    cpu_s = after[service.CPU_SECONDS] - before[service.CPU_SECONDS] if daemon else seen["cpu_s"]
    return {
        "p50_ms": float(np.percentile(took_ms[warm:], 50)),
        "p90_ms": float(np.percentile(took_ms[warm:], 90)),
        "p99_ms": float(np.percentile(took_ms[warm:], 99)),
        "orders_per_s": len(took_ms) / seen["lasted_s"],
        "orders_per_cpu_s": len(took_ms) / cpu_s,
        "cpu_share": cpu_s / seen["lasted_s"],
        **({"ack_p50_ms": statistics.median(seen["acked_ms"])} if daemon else {}),
        "accounts": len(broker.tokens),
        "refused": len(refused),
        "refused_with": sorted(set(refused.values())),
    }


async def _received(broker: Broker, names: list[str], after_number: int) -> dict[str, int]:
    """Return when the simulator had each order whole, ns since the Unix epoch.

    Raises:
        Disagreement: One of them never came, or twice.
    """
    tags = await _tags(broker, names)
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as http:
        answer = await http.get(
            f"{broker.exchange.rest_root}/sim/ledger", params={"after": after_number}
        )
    received: dict[str, int] = {}
    for entry in answer.raise_for_status().json()["data"]["entries"]:
        name = tags.get(entry["tag"] or "")
        if name is None or entry["kind"] != "received" or entry["method"] != "place":
            continue
        if name in received:
            raise Disagreement(f"{name} was posted twice")
        received[name] = entry["at_us"] * NS_PER_US
    if missing := set(names) - received.keys():
        raise Disagreement(f"{len(missing)} orders were not posted, such as {min(missing)}")
    return received


async def _tags(broker: Broker, names: list[str]) -> dict[str, str]:
    """Return the callers' names of orders by tag, once all have been sent."""
    async with await psycopg.AsyncConnection.connect(broker.database_url) as connection:
        async with asyncio.timeout(SETTLE_S_MAX):
            while True:
                cursor = await connection.execute(
                    "SELECT tag, client_order_id FROM order_task"
                    " WHERE client_order_id = ANY(%s) AND state NOT IN"
                    " ('RECEIVED', 'READY', 'SENDING')",
                    [names],
                )
                found = dict(await cursor.fetchall())
                if len(found) == len(names):
                    return found
                await asyncio.sleep(LOOK_AGAIN_S)


async def _last_entry(broker: Broker) -> int:
    async with httpx.AsyncClient(trust_env=False, timeout=HTTP_S_MAX) as http:
        answer = await http.get(
            f"{broker.exchange.rest_root}/sim/ledger", params={"after": 1 << 40}
        )
    last: int = answer.raise_for_status().json()["data"]["last"]
    return last


def _gate(gate: Mapping[str, float], theirs: list[dict[str, Any]]) -> Result:
    """Return what the risk gate adds to an order, against the transactions and POST alone."""
    bare_ms = statistics.mean(each["p50_ms"] for each in theirs)
    return Result(
        name="orders_gate",
        ours=US_PER_S / gate["gate_every_rule_us"],
        peer=MS_PER_S / bare_ms,
        unit="decisions/CPU s, every rule on",
        against="bare p50, as a rate",
        more={**gate, "bare_p50_ms": bare_ms},
    )


def _results(ours: Mapping[str, Any], theirs: list[dict[str, Any]]) -> list[Result]:
    measured = [name for name, value in theirs[0].items() if isinstance(value, float)]
    bare = {name: statistics.mean(each[name] for each in theirs) for name in measured}
    of_bare = {f"bare_{name}": value for name, value in bare.items()}
    p50_ms_max = GOAL_TIMES_BARE * bare["p50_ms"] + GOAL_MORE_MS
    latencies = {
        "p50_ms": {"at_most": {"p50_ms": p50_ms_max}},
        "p99_ms": {"at_most": {"p99_ms": GOAL_P99_MS}},
    }
    found = [
        Result(
            name=f"orders_{name.removesuffix('_ms')}",
            ours=MS_PER_S / ours[name],
            peer=MS_PER_S / bare[name],
            unit=f"1/s, of {name.removesuffix('_ms')}",
            against=AGAINST,
            spread=(
                min(each[name] for each in theirs) / ours[name],
                max(each[name] for each in theirs) / ours[name],
            ),
            more={**ours, **of_bare},
            **promised,
        )
        for name, promised in latencies.items()
    ]
    found.append(
        Result(
            name="orders_rate",
            ours=ours["orders_per_cpu_s"],
            peer=bare["orders_per_cpu_s"],
            unit="orders/CPU s",
            against=AGAINST,
            more={
                "orders_per_s": ours["orders_per_s"],
                "bare_orders_per_s": bare["orders_per_s"],
                "accounts": ours["accounts"],
                "refused": ours["refused"],
            },
            at_most={"refused": 0},
        )
    )
    return found
