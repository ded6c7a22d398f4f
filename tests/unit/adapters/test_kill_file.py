"""Kill switches in a file: what cannot be read stops everything, what was thrown is on disk."""

from __future__ import annotations

import json
import os
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from ticker_service.adapters.kill_file import (
    FILE_BYTES_MAX,
    RELEASED_KEPT,
    STANDING_MAX,
    KillFile,
)
from ticker_service.domain.kill_switch import (
    WHY_CHARACTERS_MAX,
    KillLevel,
    KillScope,
    KillSwitch,
    strictest,
)
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

NOON_NS = 1_795_242_600 * 1_000_000_000


def switch(scope: str = "all", level: KillLevel = KillLevel.HALT_NEW) -> KillSwitch:
    return KillSwitch(
        switch_id=uuid.uuid4(),
        scope=KillScope.of(scope),
        level=level,
        why="why",
        by_whom="somebody",
        since_ns=NOON_NS,
    )


def _edited(**changed: object) -> bytes:
    """Return a file as a person leaves it who has changed it by hand."""
    fields: dict[str, object] = {
        "switch_id": "7e0fd3a2-1111-4222-8333-944445555666",
        "scope": "account:OTHER",
        "level": "HALT_NEW",
        "why": "why",
        "by_whom": "somebody",
        "since_us": NOON_NS // 1_000,
        "released_us": 0,
        "released_by": "",
    }
    return json.dumps({"version": 1, "switches": [fields | changed]}).encode()


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "kill-switch.json"


@pytest.mark.parametrize("scope", ["account:MAIN", "group:PAIR"])
def test_a_switch_is_seen_by_a_reader_that_was_there_before(path: Path, scope: str) -> None:
    reader, writer = KillFile(path), KillFile(path)
    assert reader.standing() == ()
    thrown = writer.throw(switch(scope, KillLevel.CANCEL_ALL))
    assert reader.standing() == (thrown,)
    (released,) = writer.release(KillScope.of(scope), by_whom="b", now_ns=NOON_NS + 1_000)
    assert reader.standing() == ()
    assert reader.all() == [released]
    assert (released.released_by, released.released_ns) == ("b", NOON_NS + 1_000)


def test_a_switch_alike_is_thrown_once(path: Path) -> None:
    file = KillFile(path)
    assert file.throw(first := switch()) == file.throw(switch()) == first
    assert len(file.all()) == 1


def test_a_scope_is_released_by_its_own_name_alone(path: Path) -> None:
    file = KillFile(path)
    file.throw(switch("account:MAIN"))
    assert file.release(KillScope.of("all"), by_whom="b", now_ns=NOON_NS) == []
    assert len(file.standing()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": 2, "switches": []}',
        b'{"version": 1, "switches": [{}]}',
        b'{"version": 1, "switches": 7}',
        b"\xff\xfe",
        b" " * (FILE_BYTES_MAX + 1),
        b"[" * 100_000,
        # What the journal could not hold would end the daemon that gives it to it.
        _edited(since_us=10**18),
        _edited(since_us=-1),
        _edited(why="x" * (WHY_CHARACTERS_MAX + 1)),
    ],
    ids=lambda content: str(content[:30]),
)
def test_a_file_that_cannot_be_read_stops_everything_and_is_not_written_over(
    path: Path, content: bytes
) -> None:
    file = KillFile(path)
    file.throw(switch("account:MAIN"))
    file.standing()
    path.write_bytes(content)
    held = strictest(file.standing(), "OTHER", "NSE:INFY")
    assert held is not None
    assert str(path) in held.why
    with pytest.raises(ConfigurationError, match=path.name):
        file.throw(switch("account:OTHER"))
    assert path.read_bytes() == content


def test_a_pipe_in_its_place_neither_hangs_nor_opens(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert strictest(KillFile(path).standing(), "MAIN") is not None


def test_a_file_that_is_removed_releases_nothing(path: Path) -> None:
    file = KillFile(path)
    thrown = file.throw(switch())
    assert file.standing() == (thrown,)
    path.unlink()
    assert file.standing() == (thrown,)


def test_a_folder_that_cannot_be_written_is_told_and_leaves_nothing_behind(path: Path) -> None:
    path.parent.write_text("no folder")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        KillFile(path).throw(switch())


def test_two_writers_lose_nothing_of_each_other(path: Path) -> None:
    scopes = [f"account:A{number}" for number in range(20)]
    writers = [
        threading.Thread(target=lambda scope=scope: KillFile(path).throw(switch(scope)))
        for scope in scopes
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(str(each.scope) for each in KillFile(path).standing()) == sorted(scopes)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_is_kept_has_a_limit(path: Path) -> None:
    file = KillFile(path)
    scope = KillScope.of("all")
    for number in range(RELEASED_KEPT + 3):
        file.throw(switch())
        file.release(scope, by_whom=str(number), now_ns=NOON_NS + number)
    assert [each.released_by for each in file.all()] == [
        str(number) for number in range(3, RELEASED_KEPT + 3)
    ]
    kept = file.all()[0]
    fields = json.loads(path.read_bytes())["switches"][0]
    many = [
        fields | {"switch_id": str(uuid.uuid4()), "scope": f"account:A{n}", "released_us": 0}
        for n in range(STANDING_MAX)
    ]
    path.write_text(json.dumps({"version": 1, "switches": many}))
    with pytest.raises(ConfigurationError, match=str(STANDING_MAX)):
        file.throw(switch())
    assert kept.released_by == "3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "everything",
        "account:",
        "account:A B",
        "group:",
        "group:A B",
        "symbol:INFY",
        "symbol:NSE:",
        "all:x",
    ],
)
def test_a_scope_that_is_none_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="scope="):
        KillScope.of(text)


@pytest.mark.parametrize(
    "text", ["all", "group:PAIR", "account:MAIN", "symbol:NSE:M&M", "symbol:NFO:NIFTY26NOVFUT"]
)
def test_a_scope_is_written_as_it_is_read(text: str) -> None:
    assert str(KillScope.of(text)) == text


def test_a_file_as_full_as_it_gets_can_be_read_and_released(path: Path) -> None:
    file = KillFile(path)
    file.throw(switch())
    longest = {"why": "\U0001f6d1" * WHY_CHARACTERS_MAX, "by_whom": "\U0001f6d1" * 255}
    thrown = json.loads(path.read_text())["switches"][0]
    standing = [
        {**thrown, **longest, "switch_id": str(uuid.uuid4()), "scope": f"account:A{number}"}
        for number in range(STANDING_MAX - 1)
    ]
    released = [
        {**each, "switch_id": str(uuid.uuid4()), "released_us": 1, "released_by": each["by_whom"]}
        for each in standing[:RELEASED_KEPT]
    ]
    path.write_text(json.dumps({"version": 1, "switches": [*released, *standing]}))
    file.throw(switch())
    assert len(file.standing()) == STANDING_MAX
    assert len(file.release(KillScope.of("all"), by_whom="b", now_ns=NOON_NS)) == 1
