"""Where the time of a flush goes: CPU seconds by step, measured in a pass of their own."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from ticker_service.market import batch, decode, validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ticker_service.market.pipeline import TickPath


class Steps:
    """Adds up the CPU seconds of the steps of one path."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the steps that are functions of modules until the block ends."""
        functions = [(decode, "frames"), (validate, "plausible"), (batch, "by_book")]
        before = [getattr(module, name) for module, name in functions]
        for (module, name), step in zip(functions, ("decode", "validate", "batch"), strict=True):
            self._watch(module, name, step)
        try:
            yield
        finally:
            for (module, name), original in zip(functions, before, strict=True):
                setattr(module, name, original)

    def watch(self, path: TickPath) -> None:
        """Watch the steps that are parts of a path; its opening, before this, does not count."""
        self.seconds.clear()
        self._watch(path.latest, "merge", "merge")
        self._watch(path, "_count", "count")
        self._watch(path.streams, "take", "streams")
        self._watch(path.streams, "standing", "standing")
        self._watch(path.pricer.forwards, "update", "forwards")
        self._watch(path.pricer, "update", "solve")
        self._watch(path.pricer, "columns", "greeks")
        self._watch(path._sent, "keep", "keep")  # noqa: SLF001 - nobody else has it
        self._watch(path._ledger, "enter", "ledger")  # noqa: SLF001 - nobody else has it
        self._watch(path, "_batches", "encode")
        self._watch(path._publisher, "send", "send")  # noqa: SLF001 - nobody else has it
        self._watch(path, "flush", "flush")

    def _watch(self, owner: Any, name: str, step: str) -> None:  # noqa: ANN401 - any object
        original = getattr(owner, name)

        @wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            began = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds[step] += time.thread_time() - began

        @wraps(original)
        async def timed_async(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            began = time.thread_time()
            try:
                return await original(*args, **kwargs)
            finally:
                self.seconds[step] += time.thread_time() - began

        setattr(owner, name, timed_async if iscoroutinefunction(original) else timed)
