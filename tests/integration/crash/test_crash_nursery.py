"""A forked daemon is the one that a service manager starts, but for the time its start takes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crash_parts
import pytest
from crash_parts import door, limit_order, place_frame

if TYPE_CHECKING:
    from crash_parts import Daemon, World


def test_a_forked_daemon_differs_from_one_started_afresh_in_nothing_that_the_system_shows(
    own: World,
) -> None:
    seen = []
    for number, is_afresh in enumerate((False, True)):
        daemon = own.start(is_afresh=is_afresh)
        assert daemon.opens(own.account)
        with door(own, daemon) as calls:
            answer = calls.ask(
                place_frame(f"k{number}", own.account, limit_order("BUY", 1, "1.00"))
            )
        seen.append({**_as_the_system_sees(daemon), "answer": answer["op"]})
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0

    forked, afresh = seen
    assert forked == afresh
    assert forked["leads its session"]
    assert forked["answer"] == "ack"


def _as_the_system_sees(daemon: Daemon) -> dict[str, Any]:
    here = Path(f"/proc/{daemon.pid}")
    status = dict(
        line.split(":\t", 1) for line in (here / "status").read_text().splitlines() if ":\t" in line
    )
    own_words = ("Umask", "SigBlk", "SigIgn", "SigCgt", "CapEff", "NoNewPrivs", "Groups")
    return {
        **{name: status[name] for name in own_words},
        "leads its session": os.getsid(daemon.pid) == daemon.pid,
        "folder": (here / "cwd").readlink(),
        "first three": [_kind((here / f"fd/{number}").readlink()) for number in range(3)],
        "limits": (here / "limits").read_text(),
        "pipes": sum(_kind(each.readlink()) == "pipe" for each in (here / "fd").iterdir()),
    }


def _kind(target: Path) -> str:
    """Return what a descriptor is, without what differs from life to life."""
    name = str(target)
    return name.partition(":")[0] if ":" in name else target.suffix or name


def test_a_start_that_nobody_waited_for_is_not_taken_for_the_next_one(
    own: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hurried:
        hurried.setattr(crash_parts, "START_S", 0.0)
        with pytest.raises(AssertionError, match="no daemon"):
            own.start(kill_at="C0")

    daemon = own.start(kill_at="C0")

    assert daemon.facts()["pid"] == daemon.pid
