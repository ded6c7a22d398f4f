"""Which recordings have to go, and whether there is room for more. Pure."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.config import RecordConfig
    from ticker_service.ports import RecordedFile

FRAMES: Final = "frames"
COLUMNS: Final = "columns"
DISK: Final = "disk"
BYTES_MAX: Final = "bytes_max"
ROOM_RATIO: Final = 1.25
"""Recording starts again with so many times the room it stopped at, or it would flutter."""
_DATED: Final = re.compile(rf"({FRAMES}|{COLUMNS})/(?:date=)?(\d{{4}}-\d{{2}}-\d{{2}})/.+")


def to_delete(
    files: Sequence[RecordedFile], config: RecordConfig, *, today: dt.date
) -> Sequence[str]:
    """Return what the limits no longer allow, in the order it should go.

    First what is too old. Then, while all of it together is too large, the oldest frames, and the
    oldest columns only when no frames are left: they are the smaller half, and the history of
    expired options. Today's files and foreign ones stay.

    Args:
        files: Everything in the folder.
        config: The limits.
        today: The date in India.
    """
    days = {FRAMES: config.frames_days, COLUMNS: config.columns_days}
    dated = sorted(
        (kind != FRAMES, day, file.name, file.size_bytes, kind)
        for file in files
        for kind, day in _kind_and_day(file.name)
        if day < today
    )
    gone: list[tuple[str, int]] = []
    kept: list[tuple[str, int]] = []
    for _, day, name, size_bytes, kind in dated:
        is_old = 0 < days[kind] < (today - day).days
        (gone if is_old else kept).append((name, size_bytes))
    if config.bytes_max:
        deleted = sum(size_bytes for _, size_bytes in gone)
        over = sum(file.size_bytes for file in files) - deleted - config.bytes_max
        for name, size_bytes in kept:
            if over <= 0:
                break
            gone.append((name, size_bytes))
            over -= size_bytes
    return [name for name, _ in gone]


def obstacle(config: RecordConfig, *, free_bytes: int, used_bytes: int, is_on: bool) -> str:
    """Return why nothing more may be recorded: ``disk``, ``bytes_max``, or nothing at all.

    Args:
        config: The limits.
        free_bytes: What the disk has left.
        used_bytes: What all recordings take.
        is_on: Whether it is recording now; once stopped it takes more room to start again.
    """
    slack = 1.0 if is_on else ROOM_RATIO
    if free_bytes < config.free_bytes_min * slack:
        return DISK
    if config.bytes_max and used_bytes * slack > config.bytes_max:
        return BYTES_MAX
    return ""


def _kind_and_day(name: str) -> list[tuple[str, dt.date]]:
    found = _DATED.fullmatch(name)
    try:
        return [(found[1], dt.date.fromisoformat(found[2]))] if found else []
    except ValueError:
        return []
