"""An event loop whose time passes only while nobody has anything to do: no test ever waits."""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")
NS_PER_S = 1_000_000_000


class _JumpingSelector(selectors.DefaultSelector):
    """Jumps to the next timer instead of waiting for it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("every task waits for something that nothing will bring")
        if timeout > 0.0:
            self.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop at virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def stall(self, seconds: float) -> None:
        """Let time pass in which nobody gets to run, as while a call blocks the loop."""
        self._jumping.now_s += seconds


class LoopClock:
    """A ``Clock`` that reads the running loop's virtual time."""

    def __init__(self, start_ns: int = 0) -> None:
        self._start_ns = start_ns

    def now_ns(self) -> int:
        return self._start_ns + self.monotonic_ns()

    def monotonic_ns(self) -> int:
        return round(asyncio.get_running_loop().time() * NS_PER_S)

    def set_by(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self._start_ns += round(seconds * NS_PER_S)


def run(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine at virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
