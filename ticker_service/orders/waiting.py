"""How many instructions of an account wait, so that their number has a limit (I15).

Path: order -> [admit] -> journal -> execute -> settle -> report. What is journalled and not yet
sent waits: carried by a task, or for its turn behind an earlier change of the same order. Cancels
and exits are counted apart, so that no number of orders keeps one out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ticker_service.domain.order import TaskKind
from ticker_service.errors import OrderRefused

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable

    from ticker_service.domain.order import NewTask, OrderTask


_TAKES_RISK_AWAY: Final = frozenset({TaskKind.CANCEL, TaskKind.EXIT})


class Waiting:
    """What of one account waits; belongs to one event loop."""

    def __init__(self, waiting_max: int) -> None:
        """Begin with nothing; ``waiting_max`` is for cancels with exits, and for others."""
        self.carried: dict[uuid.UUID, OrderTask] = {}
        """What a task of ours is at work on."""
        self.asking: set[uuid.UUID] = set()
        """What the journal is being asked to take; nobody can carry it yet."""
        self._waiting_max = waiting_max
        self._uncarried: dict[uuid.UUID, TaskKind] = {}
        self.is_open_exit: Callable[[uuid.UUID | None], bool] = _no_exit
        """Whether a job is an open exit, whose orders are counted with it."""

    def kind_of(self, task: NewTask | OrderTask) -> TaskKind:
        """Return as what an instruction counts."""
        return TaskKind.EXIT if self.is_open_exit(task.job_id) else task.kind

    def refusal(self, kind: TaskKind) -> OrderRefused | None:
        """Return why one more of a kind is too many, None if it is not."""
        if len(self.carried) + len(self._uncarried) < self._waiting_max:
            return None
        carried = [self.kind_of(task) for task in self.carried.values()]
        kinds = [*carried, *self._uncarried.values()]
        is_apart = kind in _TAKES_RISK_AWAY
        alike = sum((each in _TAKES_RISK_AWAY) is is_apart for each in kinds)
        if alike < self._waiting_max:
            return None
        what = "cancels and exits" if is_apart else "orders and changes"
        return OrderRefused("TOO_MANY_WAITING", f"{alike} {what} are waiting")

    def begin(self, new: NewTask | OrderTask) -> None:
        """Count an instruction from before it is journalled, so that no two take one place."""
        self._uncarried[new.task_id] = self.kind_of(new)

    def end(self, new: NewTask) -> None:
        """Count it no more: it was not taken, or its key had named another before."""
        self._uncarried.pop(new.task_id, None)

    def carry(self, task: OrderTask) -> None:
        """Know that somebody is at work on a task."""
        self._uncarried.pop(task.task_id, None)
        self.carried[task.task_id] = task

    def uncarried(self) -> frozenset[uuid.UUID]:
        """Return what the journal may have that nobody carries; take it before reading it."""
        return frozenset(self._uncarried) - self.asking

    def correct(self, before: frozenset[uuid.UUID], unsent: Iterable[OrderTask]) -> None:
        """Hold the count against what the journal has unsent, read since ``before`` was taken."""
        found = {
            task.task_id: self.kind_of(task) for task in unsent if task.task_id not in self.carried
        }
        younger = {key: kind for key, kind in self._uncarried.items() if key not in before}
        self._uncarried = found | younger


def _no_exit(_: uuid.UUID | None) -> bool:
    return False
