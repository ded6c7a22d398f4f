"""Recording stops for the disk and goes on again, and the feed does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recorded_stage import RecordedStage, gaps_told, record, replay, tapes

from ticker_service.config import RecordConfig
from ticker_service.market import tape
from ticker_service.testing import MemoryFolder

if TYPE_CHECKING:
    import pytest

GB = 1 << 30


def limits(**changed: int) -> RecordConfig:
    return RecordConfig(folder=Path("unused"), **{"free_bytes_min": GB, **changed})


def notices(stage: RecordedStage) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in stage.publisher.notices()]


async def trade(stage: RecordedStage, seconds: int = 8) -> None:
    """Let ticks come for a while, so that whoever looks at the disk has looked."""
    for _ in range(seconds):
        await stage.spot()
        await stage.pass_s(0.95)


async def until_the_disk_fills_and_empties(stage: RecordedStage) -> None:
    await stage.come_up()
    await trade(stage)
    stage.folder.free = GB - 1
    await trade(stage)
    assert stage.engine.health().recording == "disk"
    stage.folder.free = 2 * GB
    await trade(stage)
    assert stage.engine.health().recording == "on"
    await trade(stage)


def test_a_full_disk_stops_the_recording_says_so_and_goes_on_when_there_is_room() -> None:
    stage = record(until_the_disk_fills_and_empties, config=limits())
    told = [(n["kind"], n["state"], n.get("reason")) for n in notices(stage)]
    assert told == [
        ("recording", "stopped", "disk"),
        ("recording", "on", None),
        ("recording", "lost", "disk"),
    ]
    assert stage.metric("record_steps_lost_total", reason="disk") > 10
    assert len(stage.folder.contents) == 2


def test_the_feed_does_not_notice_that_the_disk_is_full() -> None:
    stage = record(until_the_disk_fills_and_empties, config=limits())
    batches = [
        m for m in (json.loads(r) for _, r in stage.publisher.messages) if m["kind"] == "batch"
    ]
    seconds = {batch["published_at_us"] // 1_000_000 for batch in batches}
    assert len(seconds) == 32


def test_the_file_after_a_stop_says_what_is_missing_and_the_replay_announces_it() -> None:
    stage = record(until_the_disk_fills_and_empties, config=limits())
    first, second = tapes(stage.folder.contents)
    losses = [step for step in second.tape.steps() if step.name == tape.LOST]
    (loss,) = losses
    assert loss.arguments["reason"] == "disk"
    assert first.tape.last_ns < int(str(loss.arguments["from_ns"]))
    published, summary = replay(stage.folder.contents)
    gaps = gaps_told(published)
    assert [gap["reason"] for gap in gaps] == ["not_recorded"]
    assert summary.losses == 1


def test_a_disk_without_room_from_the_start_records_nothing_and_publishes_everything() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage)
        assert stage.engine.health().recording == "disk"

    stage = record(script, config=limits(), folder=MemoryFolder(free=GB - 1))
    assert stage.folder.contents == {}
    assert stage.metric("ticks_published_total", book="NIFTY") == 8
    assert stage.metric("record_on") == 0


def test_a_write_that_fails_is_tried_again_after_a_while_in_another_file() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage, 3)
        stage.folder.is_broken = True
        await trade(stage, 3)
        assert stage.engine.health().recording in {"write_failed", "folder"}
        stage.folder.is_broken = False
        await trade(stage, 20)
        await trade(stage, 20)
        assert stage.engine.health().recording == "on"

    stage = record(script, config=limits())
    assert len(stage.folder.contents) == 2
    assert [n["state"] for n in notices(stage)] == ["stopped", "on", "lost"]
    published, _ = replay(stage.folder.contents)
    assert published.messages


def test_a_disk_that_fills_between_two_looks_leaves_a_torn_tail_and_nothing_worse() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage, 3)
        stage.folder.free = 10
        await trade(stage, 3)

    stage = record(script, config=limits(free_bytes_min=0))
    (recording,) = tapes(stage.folder.contents)
    assert recording.tape.torn_bytes == 10
    published, _ = replay(stage.folder.contents)
    assert published.everything()[0] == stage.publisher.everything()[0][: len(published.messages)]


def test_a_queue_that_is_full_loses_steps_and_marks_where() -> None:
    async def script(stage: RecordedStage) -> None:
        await trade(stage, 2)
        for _ in range(60):
            await stage.feed.receive(*[_noise(stage)] * 20)
            await stage.pass_s(0.021)
        await trade(stage, 3)

    stage = record(script, config=limits(free_bytes_min=0, waiting_bytes_max=50_000))
    assert stage.metric("record_steps_lost_total", reason="overflow") > 0
    assert stage.metric("record_frames_lost_total", reason="overflow") > 0
    steps = [step for each in tapes(stage.folder.contents) for step in each.tape.steps()]
    assert {s.arguments["reason"] for s in steps if s.name == tape.LOST} == {"overflow"}
    lost = [notice for notice in notices(stage) if notice["state"] == "lost"]
    assert sum(notice["frames"] for notice in lost) == stage.metric(
        "record_frames_lost_total", reason="overflow"
    )
    assert stage.recorder.state == "on"


def test_what_waits_for_the_disk_is_bounded() -> None:
    seen: list[int] = []

    async def script(stage: RecordedStage) -> None:
        for _ in range(60):
            await stage.feed.receive(*[_noise(stage)] * 20)
            await stage.pass_s(0.021)
            seen.append(stage.recorder.waiting_bytes)

    record(script, config=limits(free_bytes_min=0, waiting_bytes_max=50_000))
    assert 20_000 < max(seen) <= 50_000


def test_a_recorder_that_breaks_is_logged_and_the_feed_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def break_down(_: object) -> bytes:
        raise TypeError("a bug of the recorder")

    monkeypatch.setattr(tape, "encode", break_down)

    async def script(stage: RecordedStage) -> None:
        await trade(stage, 4)
        assert stage.engine.health().recording == "failed"
        await trade(stage, 4)

    stage = record(script)
    assert stage.metric("ticks_published_total", book="NIFTY") == 8


def test_limits_delete_old_days_while_it_records() -> None:
    folder = MemoryFolder()
    folder.contents["frames/2026-11-01/1-000.tape"] = bytearray(10)
    folder.contents["frames/2026-11-19/2-000.tape"] = bytearray(10)

    stage = record(trade, config=limits(free_bytes_min=0, frames_days=7), folder=folder)
    assert "frames/2026-11-01/1-000.tape" not in stage.folder.contents
    assert "frames/2026-11-19/2-000.tape" in stage.folder.contents
    assert stage.metric("record_files_deleted_total") == 1


def _noise(stage: RecordedStage) -> Any:
    from ticker_service.ports import Frame  # noqa: PLC0415

    return Frame(stage.clock.now_ns(), b"\x00" * 400)
