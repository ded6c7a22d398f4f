"""A real cluster of three Valkey nodes, each a child of ours, in one temporary directory."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app import valkey_program
from app.kept import Child, KeepOptions, keep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

NODES: Final = 3
SLOTS: Final = 16_384
LOOPBACK: Final = "127.0.0.1"
DEADLINE_S: Final = 40.0
PACE_S: Final = 0.01
NODE_TIMEOUT_MS: Final = 2_000


@dataclass(frozen=True, slots=True)
class Node:
    """One server of the cluster."""

    port: int
    child: Child
    client: Redis

    async def ask(self, *command: object) -> Any:
        return await self.client.execute_command(*command)  # type: ignore[arg-type]

    async def node_id(self) -> str:
        return str((await self.ask("CLUSTER", "MYID")).decode())


@dataclass(frozen=True, slots=True)
class Cluster:
    """Three servers that hold a third of the slots each."""

    url: str
    nodes: Sequence[Node]

    async def node_of(self, name: str) -> Node:
        """Return the server that holds the slot of a key or channel."""
        slot = await self.slot_of(name)
        for first, last, owner, *_ in await self.nodes[0].ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == owner[1])
        raise AssertionError(f"nobody holds slot {slot}")

    async def slot_of(self, name: str) -> int:
        return int(await self.nodes[0].ask("CLUSTER", "KEYSLOT", name))

    async def move(self, name: str, target: Node) -> None:
        """Give the slot of a key or channel to another server, as resharding does."""
        source, slot = await self.node_of(name), await self.slot_of(name)
        if source is target:
            return
        target_id, source_id = await target.node_id(), await source.node_id()
        await target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while keys := await source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            password = source.client.connection_pool.connection_kwargs["password"]
            await source.ask(
                *("MIGRATE", LOOPBACK, target.port, "", 0, 5_000, "REPLACE"),
                *("AUTH", password, "KEYS", *keys),
            )
        for node in (target, source, *self.nodes):
            await node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)


@contextlib.asynccontextmanager
async def valkey_cluster() -> AsyncIterator[Cluster]:
    """Run the cluster for the length of the block."""
    password = secrets.token_urlsafe(32)
    async with contextlib.AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ticker-cluster-")))
        nodes = [await stack.enter_async_context(_node(place, password)) for _ in range(NODES)]
        async with asyncio.timeout(DEADLINE_S):
            await _join(nodes)
        yield Cluster(f"redis://:{password}@{LOOPBACK}:{nodes[0].port}/0", nodes)


@contextlib.asynccontextmanager
async def _node(place: Path, password: str) -> AsyncIterator[Node]:
    folder = Path(tempfile.mkdtemp(dir=place))
    port, bus_port = _free_ports(2)
    configuration = valkey_program.configuration(
        password=password, directory=folder, unix_socket=folder / "s"
    ).replace("\nport 0\n", f"\nport {port}\n")
    configuration += f"""
masterauth {password}
cluster-enabled yes
cluster-port {bus_port}
cluster-announce-ip {LOOPBACK}
cluster-config-file nodes.conf
cluster-node-timeout {NODE_TIMEOUT_MS}
"""
    with tempfile.TemporaryFile() as log:
        async with (
            keep(
                [valkey_program.find(), "-"],
                stdout=log,
                stderr=log,
                options=KeepOptions(stdin=configuration.encode()),
            ) as child,
            Redis(host=LOOPBACK, port=port, password=password) as client,
        ):
            async with asyncio.timeout(DEADLINE_S):
                await _answering(client, child)
            yield Node(port, child, client)


async def _answering(client: Redis, child: Child) -> None:
    while True:
        try:
            await client.ping()
        except RedisConnectionError:
            assert child.returncode is None
            await asyncio.sleep(PACE_S)
        else:
            return


async def _join(nodes: Sequence[Node]) -> None:
    bounds = [SLOTS * number // NODES for number in range(NODES + 1)]
    for node, first, after in zip(nodes, bounds, bounds[1:], strict=False):
        await node.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
    for number, node in enumerate(nodes, start=1):
        await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
    for node in nodes[1:]:
        bus_port = int((await node.ask("CONFIG", "GET", "cluster-port"))[b"cluster-port"])
        await nodes[0].ask("CLUSTER", "MEET", LOOPBACK, node.port, bus_port)
    for node in nodes:
        while not await _is_whole(node):  # noqa: ASYNC110 - a cluster tells nobody
            await asyncio.sleep(PACE_S)


async def _is_whole(node: Node) -> bool:
    text = (await node.ask("CLUSTER", "INFO")).decode()
    return "cluster_state:ok" in text and f"cluster_known_nodes:{NODES}" in text


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
