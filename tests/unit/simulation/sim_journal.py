"""The line to the journal: a write is carried out by the server whether its asker lives or not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from ticker_service.domain.order import JOBS
from ticker_service.domain.order_state import JOB_OPEN
from ticker_service.errors import JournalUnavailable
from ticker_service.testing import MemoryJournal

if TYPE_CHECKING:
    import uuid
    from collections.abc import Awaitable, Callable

    from sim_world import Process

    from ticker_service.domain.order import NewTask, OrderTask, TaskUpdate
    from ticker_service.ports import Admitted

T = TypeVar("T")

STATEMENT_S: Final = 0.3
"""How long a write is waited for before its asker gives up on the answer."""
WRITES: Final = frozenset({"admit", "claim", "record", "hand_over"})


class JournalLine(MemoryJournal):
    """One process's journal: the records of all, a session of its own."""

    def __init__(
        self, process: Process, records: MemoryJournal, intended_ns: dict[str, int]
    ) -> None:
        super().__init__(beside=records, new_id=process.world.new_id)
        self.process = process
        self.intended_ns = intended_ns
        self.before = self._asked
        self.ended_ns: dict[uuid.UUID, int] = {}
        """When each job ended, by the clock that nobody sets."""
        self.on_intent: Callable[[OrderTask], None] = lambda _: None
        """Told of each intent once it is committed, and again once that is confirmed."""
        self._world = process.world

    async def admit(self, new: NewTask) -> Admitted:
        """Keep an instruction as RECEIVED, or return the one its key names."""
        return await self._write("admit", lambda: super(JournalLine, self).admit(new))

    async def claim(
        self, task: OrderTask, *, tag: str, writer_epoch: int, now_ns: int, send_not_after_ns: int
    ) -> OrderTask:
        """Commit the intent, and note when it was asked for."""
        asked_ns = self._world.clock.monotonic_ns()

        async def commit() -> OrderTask:
            moved = await super(JournalLine, self).claim(
                task,
                tag=tag,
                writer_epoch=writer_epoch,
                now_ns=now_ns,
                send_not_after_ns=send_not_after_ns,
            )
            self.intended_ns[tag] = asked_ns
            self.on_intent(moved)
            return moved

        claimed = await self._write("claim", commit)
        self.on_intent(claimed)
        return claimed

    async def record(self, task: OrderTask, update: TaskUpdate, *, now_ns: int) -> OrderTask:
        """Move a task one step."""

        async def step() -> OrderTask:
            moved = await super(JournalLine, self).record(task, update, now_ns=now_ns)
            if task.kind in JOBS and moved.state not in JOB_OPEN:
                self.ended_ns[task.task_id] = self._world.clock.monotonic_ns()
            return moved

        return await self._write("record", step)

    async def hand_over(
        self, task: OrderTask, update: TaskUpdate, successor: NewTask, *, now_ns: int
    ) -> OrderTask:
        """End a task and let another go on for it on another account."""
        return await self._write(
            "hand_over",
            lambda: super(JournalLine, self).hand_over(task, update, successor, now_ns=now_ns),
        )

    async def _asked(self, name: str) -> None:
        if name in WRITES:
            return  # carried out at the server, in whose task this runs
        self.process.step(name)
        if self._world.is_journal_down:
            raise JournalUnavailable("told to be down")

    async def _write(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        world = self._world
        self.process.step(f"{name} about to be asked")
        if world.is_journal_down:
            raise JournalUnavailable("told to be down")
        there_s, back_s = world.random_s(0.0005, 0.003), world.random_s(0.0005, 0.003)
        if world.is_moody and world.happens(0.02):
            world.met["commit_late_or_unconfirmed"] += 1
            there_s, back_s = world.random_s(0.0, 0.4), world.random_s(0.0, 0.6)

        async def at_server() -> T:
            await asyncio.sleep(there_s)
            result = await work()
            world.committed(name)
            await asyncio.sleep(back_s)
            return result

        try:
            async with asyncio.timeout(STATEMENT_S):
                result = await world.outside(at_server)
        except TimeoutError:
            raise JournalUnavailable("no answer in time") from None
        self.process.step(f"{name} confirmed")
        return result
