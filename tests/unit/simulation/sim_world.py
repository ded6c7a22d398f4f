"""A world at virtual time in which daemons die: processes, what ties them to the outside, the story.

Everything follows from one seed. A process is every task that was begun inside it; killed, none of
them takes another step, and whatever they reach for on their way out is gone. What was on its way
to a server goes on without them.
"""

from __future__ import annotations

import asyncio
import contextvars
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

from virtual_time import LoopClock

from ticker_service.constants import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from random import Random

T = TypeVar("T")

NOON_NS = 1_795_242_600 * NS_PER_S
"""2026-11-21 12:00 IST."""
STORY_MAX = 4_000

_INSIDE: contextvars.ContextVar[Process | None] = contextvars.ContextVar("inside", default=None)


class ProcessDied(asyncio.CancelledError):
    """The process that reached for the outside is dead; it ends as if it had been cancelled."""


class NoAnswer(Exception):  # noqa: N818 - says what happened
    """The process died, or its answer was lost; what it did is not known to the caller."""


class _Numbered(asyncio.Task[Any]):
    """A task that hashes by number: sets of tasks then have the same order in every run."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class Process:
    """One run of the daemon; ``fail`` what it asks for once it is dead."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.name = f"daemon-{number}"
        self.is_alive = True
        self.on_death: list[Callable[[], None]] = []
        self.tasks: dict[int, _Numbered] = {}
        self._context = contextvars.copy_context()
        self._context.run(_INSIDE.set, self)

    def begin(self, work: Callable[[], Awaitable[None]]) -> None:
        """Start a task inside the process; one that fails is the end of the process."""
        self.world.servers.create_task(self._until_death(work), context=self._context)

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a request of a caller inside the process; raises :class:`NoAnswer` if it dies."""
        if not self.is_alive:
            raise NoAnswer(self.name)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def lost() -> None:
            if not answer.done():
                answer.set_exception(NoAnswer(self.name))

        self.on_death.append(lost)
        self.begin(lambda: _answer(answer, work))
        try:
            return await answer
        finally:
            self.on_death.remove(lost)

    def step(self, name: str) -> None:
        """Go on past a point at which the process may be killed; raises if it is, or was."""
        if not self.is_alive or self.world.is_fatal(self, name):
            raise ProcessDied(self.name)

    def kill(self, why: str) -> None:
        """End it as SIGKILL does."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.world.kills[why] += 1
        self.world.tell(self.name, f"is killed at {why}")
        for each in list(self.on_death):
            each()
        for number in sorted(self.tasks):
            self.tasks[number].cancel()

    async def _until_death(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except BaseExceptionGroup as failed:
            self._crash(failed)
        except Exception as failed:  # noqa: BLE001 - judged with everything else
            self._crash(failed)

    def _crash(self, failed: BaseException) -> None:
        if self.is_alive:
            self.world.crashes.append(f"{self.name} ended: {failed!r}")
            self.kill("crash")


class World:
    """The seed's chance, the clock, the servers' tasks, and what happened."""

    def __init__(self, chance: Random, servers: asyncio.TaskGroup) -> None:
        self.chance = chance
        self.clock = LoopClock(NOON_NS)
        self.servers = servers
        self.kills: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        """How often each kind of thing happened, to see that the play has them all."""
        self.story: list[tuple[float, str, str]] = []
        self.doom: int | str | None = None
        """After how many more steps a process is to die, or at which one."""
        self.crashes: list[str] = []
        """Ends of a daemon that nobody brought about."""
        self.is_moody = True
        self.is_journal_down = False
        self.stalls_s = 0.0
        """How long the loop is to stall, at the next point or at ``stalls_at``."""
        self.stalls_at = ""
        self._tasks = 0
        self._apart: dict[int, asyncio.Task[None]] = {}

    def number_tasks(self) -> None:
        """Give every task from now on a number, and the process it is born in."""
        asyncio.get_running_loop().set_task_factory(self._new_task)

    def _new_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        self._tasks += 1
        task = _Numbered(self._tasks, coro, loop=loop, **options)
        context = options.get("context")
        process = _INSIDE.get() if context is None else context.get(_INSIDE)
        if process is not None:
            process.tasks[task.number] = task
            task.add_done_callback(lambda done: process.tasks.pop(done.number, None))
        return task

    def committed(self, name: str) -> None:
        """Know that the journal has carried out a write."""
        self.met[f"commit_{name}"] += 1

    def end(self) -> None:
        """End what is still on its way between servers."""
        for number in sorted(self._apart):
            self._apart[number].cancel()

    def new_id(self) -> uuid.UUID:
        """Return the next id; the same ones in every run of a seed."""
        return uuid.UUID(int=self.chance.getrandbits(64) << 64 | self.chance.getrandbits(64))

    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def tell(self, who: str, what: str) -> None:
        """Add to the story that is printed when a seed fails."""
        if len(self.story) < STORY_MAX:
            self.story.append((self.now_s(), who, what))

    def is_fatal(self, process: Process, name: str) -> bool:
        """Return whether a process dies here; it is dead then."""
        if self.doom is None or (isinstance(self.doom, str) and self.doom != name):
            return False
        if isinstance(self.doom, int) and self.doom > 0:
            self.doom -= 1
            return False
        self.doom = None
        process.kill(name)
        return True

    async def outside(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run work at a server: it goes on when who asked for it dies."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.apart(lambda: _answer(answer, work))
        return await answer

    def apart(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a task that belongs to no process."""
        task = self.servers.create_task(work(), context=contextvars.Context())
        self._apart[self._tasks] = task
        task.add_done_callback(lambda done: self._apart.pop(done.number, None))

    def random_s(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most)

    def happens(self, probability: float) -> bool:
        return self.chance.random() < probability


async def _answer(answer: asyncio.Future[T], work: Callable[[], Awaitable[T]]) -> None:
    """Do the work and hand its result or failure to who waits for it, if anybody still does."""
    try:
        result = await work()
    except Exception as error:  # noqa: BLE001 - handed on to who asked
        if not answer.done():
            answer.set_exception(error)
    else:
        if not answer.done():
            answer.set_result(result)
