"""Thrown kill switches in a file, so that they work and last with every server down (I12).

One JSON file beside the daemon, replaced as a whole and synced before the command that wrote it
says done. The daemon looks at it right before each send: a ``stat``, and a read when it is another
file than before. What cannot be read stops everything, and one that vanished goes on holding.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ticker_service.constants import NS_PER_US
from ticker_service.domain.kill_switch import (
    WHY_CHARACTERS_MAX,
    KillLevel,
    KillScope,
    KillSwitch,
    ScopeKind,
    switch_message,
)
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION: Final = 1
FILE_BYTES_MAX: Final = 4 << 20
"""More than all that is kept can come to, every character of it escaped; else the switch that
fills the file would stop everything, and could not be released."""
RELEASED_KEPT: Final = 100
STANDING_MAX: Final = 200
INSTANT_US_MAX: Final = 250_000_000_000_000_000
"""In the year 9892; the journal holds no later one."""
UNREADABLE_ID: Final = uuid.UUID(int=0)
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, so that a pipe put in the file's place cannot hang the daemon.
_OPEN_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_Mark = tuple[int, int, int, int]


class KillFile:
    """The switches of one file; a reader and a writer need not be one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # One value: of two threads that look at once neither may leave the other's mark behind.
        self._newest: tuple[_Mark | None, tuple[KillSwitch, ...]] = (None, ())

    def standing(self) -> tuple[KillSwitch, ...]:
        """Return the switches that stand now, oldest first; takes microseconds.

        Thread/Task: any thread may call.
        """
        of, seen = self._newest
        try:
            mark = _mark_of(self.path)
        except FileNotFoundError:
            return seen  # nobody releases a switch by removing its file
        except OSError as error:
            return (*seen, _unreadable(self.path, error.strerror or str(error)))
        if mark != of:
            try:
                seen = tuple(each for each in _read(self.path) if each.stands)
            except (OSError, ConfigurationError) as error:
                return (*seen, _unreadable(self.path, str(error)))
            self._newest = (mark, seen)
        return seen

    def throw(self, switch: KillSwitch) -> KillSwitch:
        """Add a switch and return it once that is on disk; one alike that stands is returned.

        Raises:
            ConfigurationError: The file cannot be read or written; the daemon beside a file that
                it cannot read sends nothing.
        """
        with self._changing() as switches:
            for each in switches:
                alike = (each.scope, each.level) == (switch.scope, switch.level)
                if each.stands and alike:
                    return each
            if sum(each.stands for each in switches) >= STANDING_MAX:
                raise ConfigurationError(
                    f"{self.path}: holds {STANDING_MAX} switches; release some, or stop all"
                )
            switches.append(switch)
        return switch

    def release(self, scope: KillScope, *, by_whom: str, now_ns: int) -> list[KillSwitch]:
        """Release every switch of a scope and return them once that is on disk.

        Raises:
            ConfigurationError: The file cannot be read or written.
        """
        with self._changing() as switches:
            released = {
                place: replace(each, released_ns=now_ns, released_by=by_whom)
                for place, each in enumerate(switches)
                if each.stands and each.scope == scope
            }
            switches[:] = [released.get(place, each) for place, each in enumerate(switches)]
        return list(released.values())

    def all(self) -> list[KillSwitch]:
        """Return the switches that stand and the newest that were released.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        try:
            return _read(self.path)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be read: {error.strerror}") from None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[KillSwitch]]:
        """Yield the switches to be changed, and put what became of them in the file's place."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            # Two people may throw one at the same time; whoever comes second waits for moments.
            fcntl.flock(directory, fcntl.LOCK_EX)
            switches = self.all()
            before = list(switches)
            yield switches
            if switches != before:
                _write(directory, self.path, switches)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be written: {error.strerror}") from None
        finally:
            os.close(directory)


def _mark_of(path: Path) -> _Mark:
    state = os.stat(path)  # noqa: PTH116 - four times as fast, and before every send
    return (state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)


def _read(path: Path) -> list[KillSwitch]:
    with os.fdopen(os.open(path, _OPEN_FILE), "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1) or b""
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: has more than {FILE_BYTES_MAX} bytes")
    try:
        fields = json.loads(content)
        if fields["version"] != VERSION:
            raise ConfigurationError(f"{path}: version={fields['version']!r}: must be {VERSION}")
        return [_switch_of(each) for each in fields["switches"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: is no file of kill switches: {error}") from None


def _write(directory: int, path: Path, switches: list[KillSwitch]) -> None:
    released = [each for each in switches if not each.stands]
    forgotten = released[: max(len(released) - RELEASED_KEPT, 0)]
    kept = [switch_message(each) for each in switches if each not in forgotten]
    content = json.dumps({"version": VERSION, "switches": kept}, indent=1).encode() + b"\n"
    beside = f".{path.name}.{secrets.token_hex(8)}"
    # The daemon may run as somebody else than whoever throws a switch, and has to read it.
    file = os.open(beside, _NEW_FILE, mode=0o644, dir_fd=directory)
    try:
        os.fchmod(file, 0o644)
        with open(file, "wb") as opened:  # noqa: PTH123 - a descriptor relative to the directory
            opened.write(content)
            opened.flush()
            os.fsync(file)
        os.replace(beside, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=directory)
        raise
    os.fsync(directory)


def _switch_of(fields: dict[str, Any]) -> KillSwitch:
    """Return a switch; raise ``KeyError``, ``TypeError`` or ``ValueError`` if it is none.

    One that the journal cannot hold is none: people edit files by hand.
    """
    why = str(fields["why"])
    since_us, released_us = int(fields["since_us"]), int(fields["released_us"] or 0)
    if len(why) > WHY_CHARACTERS_MAX:
        raise ValueError(f"why has more than {WHY_CHARACTERS_MAX} characters")
    if not (0 <= since_us <= INSTANT_US_MAX and 0 <= released_us <= INSTANT_US_MAX):
        raise ValueError("since_us or released_us is no instant")
    return KillSwitch(
        switch_id=uuid.UUID(fields["switch_id"]),
        scope=KillScope.of(fields["scope"]),
        level=KillLevel(fields["level"]),
        why=why,
        by_whom=str(fields["by_whom"]),
        since_ns=since_us * NS_PER_US,
        released_ns=released_us * NS_PER_US,
        released_by=str(fields["released_by"] or ""),
    )


def _unreadable(path: Path, why: str) -> KillSwitch:
    return KillSwitch(
        switch_id=UNREADABLE_ID,
        scope=KillScope(ScopeKind.ALL),
        level=KillLevel.HALT_NEW,
        why=f"{path} cannot be read, and nothing is sent while it cannot: {why}",
        by_whom="daemon",
        since_ns=0,
    )
