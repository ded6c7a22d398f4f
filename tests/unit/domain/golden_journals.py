"""Journals that real programs of every version of events have written, as values of today.

Each file is ``tests/integration/journal/journal_story.py`` as its program told it, from its tables.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ticker_service.adapters.postgres_rows import attempt_of, event_of, task_of

if TYPE_CHECKING:
    from ticker_service.domain.order import OrderAttempt, OrderEvent, OrderTask

FOLDER: Final = Path(__file__).resolve().parents[2] / "data" / "journal"
VERSIONS: Final = sorted(FOLDER.glob("v*.json"))
_TIMES: Final = {
    "at",
    "created_at",
    "updated_at",
    "deadline",
    "send_not_after",
    "intent_at",
    "finished_at",
}
_IDS: Final = {"event_id", "task_id", "target_task_id", "job_id", "origin_task_id"}
_LATER: Final = {
    **dict.fromkeys(("job_id", "leg", "slice", "facts", "account_group", "origin_task_id")),
    "hop": 0,
}
"""Columns of tasks that the oldest files do not have; migrations leave them empty."""


class GoldenJournal:
    """One file: rows as a program left them, read by this one."""

    def __init__(self, file: Path) -> None:
        held = json.loads(file.read_bytes())
        self.event_rows = [_row(each) for each in held["order_event"]]
        rows = [_LATER | _row(each) for each in held["order_task"]]
        self.tasks = {each["task_id"]: task_of(each) for each in rows}
        self.attempts: defaultdict[uuid.UUID, list[OrderAttempt]] = defaultdict(list)
        for row in held["order_attempt"]:
            attempt = attempt_of(_row(row))
            self.attempts[attempt.task_id].append(attempt)

    def events_of(self, task: OrderTask) -> list[OrderEvent]:
        """Return a task's events in order of their version, as this program reads them."""
        rows = [row for row in self.event_rows if row["task_id"] == task.task_id]
        return [event_of(row) for row in sorted(rows, key=lambda row: row["version"])]


def _row(held: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(name, value) for name, value in held.items()}


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name in _TIMES:
        return dt.datetime.fromisoformat(value)
    if name in _IDS:
        return uuid.UUID(value)
    if name == "body_sha256":
        return bytes.fromhex(value)
    return Decimal(value) if name == "average_price" else value
