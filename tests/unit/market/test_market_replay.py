"""Replaying part of a day, at any speed, and what is refused; all at virtual time."""

from __future__ import annotations

import io
import json
import random
from typing import TYPE_CHECKING, Any

import pytest
import virtual_time
from recorded_stage import (
    PREFIX,
    SPOT_RAW,
    JournallingPublisher,
    RecordedStage,
    gaps_told,
    record,
    replay,
    tapes,
)
from small_exchange import NOW_NS
from virtual_time import LoopClock

from ticker_service.errors import RecordingError
from ticker_service.market import tape
from ticker_service.market.replay import Recording, Replay, ReplayOptions
from ticker_service.market.tape import Step, Tape, TapeWriter
from ticker_service.runtime.surroundings import Surroundings
from ticker_service.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

SECOND_NS = 10**9


async def ten_seconds(stage: RecordedStage) -> None:
    await stage.come_up()
    for second in range(10):
        await stage.spot(SPOT_RAW + 500 * second)
        await stage.chain(SPOT_RAW + 500 * second)
        await stage.pass_s(0.9)


@pytest.fixture(scope="module")
def stage() -> RecordedStage:
    return record(ten_seconds)


def at_us(message: tuple[str, bytes]) -> int:
    published_at_us: int = json.loads(message[1])["published_at_us"]
    return published_at_us


def contents_of(*steps: Step, header: bytes) -> Mapping[str, bytes]:
    writer = TapeWriter()
    content = writer.opening(header, at_ns=NOW_NS) + b"".join(writer.blocks(steps))
    return {"frames/2026-11-20/1-000.tape": content}


def header_of(stage: RecordedStage) -> bytes:
    return tapes(stage.folder.contents)[0].tape.header


def test_part_of_a_day_is_that_part_of_what_was_published(stage: RecordedStage) -> None:
    from_ns, to_ns = NOW_NS + 3 * SECOND_NS, NOW_NS + 7 * SECOND_NS
    part, _ = replay(stage.folder.contents, from_ns=from_ns, to_ns=to_ns)
    published = stage.publisher.everything()[0]
    assert part.messages == [m for m in published if from_ns <= at_us(m) * 1_000 < to_ns]
    assert part.messages


def test_who_joins_where_a_part_begins_finds_snapshot_and_instruments(stage: RecordedStage) -> None:
    part, _ = replay(stage.folder.contents, from_ns=NOW_NS + 3 * SECOND_NS)
    first = [key for key, _ in part.all_values[:2]]
    assert set(first) == {f"{PREFIX}instruments:NIFTY", f"{PREFIX}snapshot:NIFTY"}
    snapshot = next(json.loads(v) for k, v in part.all_values[:2] if "snapshot" in k)
    (numbered, *_) = [json.loads(raw) for _, raw in part.messages if b'"heartbeat"' not in raw]
    assert snapshot["seq"] == numbered["seq"] - 1
    assert snapshot["n"] > 0


def test_a_part_that_begins_before_the_recording_is_all_of_it(stage: RecordedStage) -> None:
    _, whole = replay(stage.folder.contents)
    _, part = replay(stage.folder.contents, from_ns=NOW_NS - SECOND_NS)
    assert part.sha256 == whole.sha256


def test_a_part_with_nothing_in_it_sends_nothing(stage: RecordedStage) -> None:
    none, summary = replay(stage.folder.contents, from_ns=NOW_NS + 99 * SECOND_NS)
    assert none.messages == []
    assert (summary.messages, summary.first_at_us) == (0, 0)


def test_a_warm_up_begins_there_with_nothing_known_and_reads_no_more(stage: RecordedStage) -> None:
    from_ns = NOW_NS + 8 * SECOND_NS
    _, whole = replay(stage.folder.contents, from_ns=from_ns)
    part, warm = replay(stage.folder.contents, from_ns=from_ns, warm_up_ns=2 * SECOND_NS)
    assert warm.steps < whole.steps / 2
    batches = [json.loads(raw) for _, raw in part.messages if b'"batch"' in raw]
    assert batches[0]["seq"] < 20
    assert any(
        volatility is not None
        for batch in batches
        for volatility in batch["columns"]["implied_volatility"]
    )


def test_time_passes_as_it_did_divided_by_the_speed(stage: RecordedStage) -> None:
    def duration_s(speed: float) -> float:
        _, summary = replay(stage.folder.contents, speed=speed)
        assert summary.behind_s_max < 0.01
        return summary.seconds

    assert duration_s(1.0) == pytest.approx(10.0, abs=0.5)
    assert duration_s(10.0) == pytest.approx(1.0, abs=0.05)
    assert duration_s(0.5) == pytest.approx(20.0, abs=1.0)


def test_as_fast_as_it_goes_waits_for_nothing(stage: RecordedStage) -> None:
    _, summary = replay(stage.folder.contents, speed=None)
    assert summary.seconds == 0.0


def test_no_byte_depends_on_the_speed(stage: RecordedStage) -> None:
    digests = {replay(stage.folder.contents, speed=speed)[1].sha256 for speed in (None, 1.0, 7.0)}
    assert len(digests) == 1


def test_the_silence_before_a_part_is_not_waited_for(stage: RecordedStage) -> None:
    _, summary = replay(stage.folder.contents, speed=1.0, from_ns=NOW_NS + 8 * SECOND_NS)
    assert summary.seconds == pytest.approx(2.0, abs=0.5)


def test_a_new_epoch_changes_the_number_and_nothing_else(stage: RecordedStage) -> None:
    as_it_was, _ = replay(stage.folder.contents)
    again, _ = replay(stage.folder.contents, epoch=stage.engine.epoch + 5)
    old = f'"epoch":{stage.engine.epoch}'.encode()
    new = f'"epoch":{stage.engine.epoch + 5}'.encode()
    assert [raw.replace(old, new) for _, raw in as_it_was.messages] == [
        raw for _, raw in again.messages
    ]


def test_several_runs_follow_each_other_each_with_its_own_epoch(stage: RecordedStage) -> None:
    later = record(ten_seconds, start_ns=NOW_NS + 60 * SECOND_NS)
    both = stage.folder.contents | later.folder.contents
    published, summary = replay(both)
    assert (
        published.everything()[0]
        == stage.publisher.everything()[0] + later.publisher.everything()[0]
    )
    assert summary.losses == 0


def test_runs_that_were_over_before_a_part_are_not_replayed(stage: RecordedStage) -> None:
    later = record(ten_seconds, start_ns=NOW_NS + 60 * SECOND_NS)
    both = stage.folder.contents | later.folder.contents
    published, summary = replay(both, from_ns=NOW_NS + 60 * SECOND_NS)
    assert published.everything()[0] == later.publisher.everything()[0]
    assert summary.steps == replay(later.folder.contents)[1].steps


def test_several_runs_under_new_epochs_keep_their_order(stage: RecordedStage) -> None:
    later = record(ten_seconds, start_ns=NOW_NS + 60 * SECOND_NS)
    published, _ = replay(stage.folder.contents | later.folder.contents, epoch=1)
    epochs = [json.loads(raw)["epoch"] for _, raw in published.messages]
    assert sorted(set(epochs)) == [1, 2]
    assert epochs == sorted(epochs)


def test_a_part_of_a_run_that_is_missing_between_two_others_is_a_gap() -> None:
    start_ns = NOW_NS + 13 * 3_600 * SECOND_NS - 3 * SECOND_NS
    stage = record(ten_seconds, start_ns=start_ns)
    first, second = sorted(stage.folder.contents)
    renumbered = stage.folder.contents[second]
    header = json.loads(tapes({second: renumbered})[0].tape.header)
    header["part"] = 2
    steps = list(tapes({second: renumbered})[0].tape.steps())
    writer = TapeWriter()
    content = writer.opening(json.dumps(header).encode(), at_ns=0) + b"".join(writer.blocks(steps))
    published, summary = replay({first: stage.folder.contents[first], second: content})
    assert summary.losses == 1
    gaps = gaps_told(published)
    assert [gap["reason"] for gap in gaps] == ["not_recorded"]


def test_a_redis_that_is_down_for_a_while_gets_everything_afterwards(stage: RecordedStage) -> None:
    class Flaky(JournallingPublisher):
        async def send(self, outgoing: Any) -> None:
            self.is_down = self.attempts % 3 == 1
            await super().send(outgoing)

    async def play() -> tuple[JournallingPublisher, Any]:
        publisher = Flaky()
        surroundings = Surroundings(
            clock=LoopClock(0),
            chance=random.Random(3),  # noqa: S311 - jitter, not a secret
            telemetry=Telemetry(),
        )
        played = Replay(
            tapes(stage.folder.contents),
            publisher,
            ReplayOptions(channel_prefix=PREFIX),
            surroundings=surroundings,
        )
        return publisher, await played.run()

    publisher, summary = virtual_time.run(play())
    assert publisher.everything() == stage.publisher.everything()
    assert summary.sha256 == replay(stage.folder.contents)[1].sha256


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(name="of_a_later_version", at_ns=5), "of_a_later_version"),
        (Step(name="doubt", at_ns=5), "rows=None"),
        (Step(name="doubt", at_ns=5, arguments={"rows": [10**6]}), "rows="),
        (Step(name="forget", at_ns=5, arguments={"rows": [-1]}), "rows="),
        (Step(name=tape.WANT, at_ns=5, arguments={"rows": ["all"]}), "rows="),
        (Step(name=tape.LOST, at_ns=5, arguments={"from_ns": 1}), "to_ns=None"),
        (Step(name="announce_status", at_ns=5, arguments={"books": [7]}), "books="),
        (Step(name="heartbeat", at_ns=5), "feed_of_book=None"),
        (Step(name="heartbeat", at_ns=5, arguments={"feed_of_book": ["up"]}), "feed_of_book="),
        (Step(name="heartbeat", at_ns=5, arguments={"feed_of_book": []}), "feed_of_book="),
    ],
)
def test_what_no_recorder_has_written_is_refused_by_name(
    stage: RecordedStage, step: Step, words: str
) -> None:
    with pytest.raises(RecordingError) as refused:
        replay(contents_of(step, header=header_of(stage)))
    assert words in str(refused.value)


def test_damage_in_the_middle_is_a_gap_and_the_rest_is_replayed(stage: RecordedStage) -> None:
    ((name, whole),) = stage.folder.contents.items()
    blocks = tapes(stage.folder.contents)[0].tape.blocks
    middle = blocks[len(blocks) // 2]
    broken = bytearray(whole)
    broken[middle.offset + 60] ^= 0xFF
    published, summary = replay({name: broken})
    assert summary.losses == 1
    assert summary.damaged_bytes == middle.end - middle.offset
    gaps = gaps_told(published)
    assert [(gap["from_us"], gap["to_us"]) for gap in gaps] == [
        (middle.first_ns // 1_000, middle.last_ns // 1_000)
    ]
    assert gaps[0]["instruments"]
    assert len(published.messages) > 20


def test_a_torn_tail_is_told_in_the_summary(stage: RecordedStage) -> None:
    ((name, whole),) = stage.folder.contents.items()
    _, summary = replay({name: whole[:-10]})
    assert summary.torn_bytes > 0


def test_a_tape_is_opened_by_its_header_alone(stage: RecordedStage) -> None:
    ((name, whole),) = stage.folder.contents.items()
    recording = Recording.of(Tape(io.BytesIO(bytes(whole)), name))
    assert recording.header.trading_day == "2026-11-20"
    assert recording.tape.first_ns >= NOW_NS
