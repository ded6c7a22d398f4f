"""What a run records, and that its replay is what the run published; all at virtual time."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest
from recorded_stage import CONFIG, PREFIX, SPOT_RAW, RecordedStage, record, replay, tapes
from small_exchange import NIFTY_TOKEN, NOW_NS
from wire_packets import index_full_packet

from ticker_service.errors import InvariantViolatedError
from ticker_service.market import pipeline, tape
from ticker_service.market.pipeline import TickPath
from ticker_service.market.record import RecordedPath
from ticker_service.ports import FeedText, Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ticker_service.market.tape import Step

SECOND_NS = 10**9


async def an_eventful_day(stage: RecordedStage) -> None:
    """Everything the engine asks of the path: ticks, repricing, windows, outages, words, noise."""
    await stage.come_up()
    await stage.spot()
    await stage.chain()
    await stage.pass_s(1.2)
    await stage.spot(SPOT_RAW + 20_000)  # the window of strikes follows
    await stage.chain(SPOT_RAW + 20_000)
    await stage.receive(Frame(stage.clock.now_ns(), b"\x00\x07lies"), b"")
    await stage.go_down()
    await stage.pass_s(2.0)
    await stage.come_up()
    await stage.receive(
        FeedText(connection=0, at_ns=stage.clock.now_ns(), kind="error", data="too many tokens")
    )
    await stage.chain(SPOT_RAW + 21_000)
    await stage.pass_s(3.0)


def steps_of(stage: RecordedStage) -> list[Step]:
    return [step for each in tapes(stage.folder.contents) for step in each.tape.steps()]


def names(steps: Sequence[Step]) -> set[str]:
    return {step.name for step in steps}


def test_the_replay_of_a_run_is_what_the_run_published_byte_by_byte() -> None:
    stage = record(an_eventful_day)
    published, _ = replay(stage.folder.contents)
    kinds = {json.loads(raw)["kind"] for _, raw in published.messages}
    assert kinds == {"bars", "batch", "heartbeat", "gap", "smile", "status"}
    assert published.everything() == stage.publisher.everything()


def test_every_step_of_the_path_is_on_the_tape() -> None:
    steps = steps_of(record(an_eventful_day))
    public = {name for name in vars(TickPath) if not name.startswith("_")}
    assert names(steps) - {tape.WANT} == public


def test_a_method_of_the_path_is_never_forgotten_by_the_recorder() -> None:
    public = {
        name
        for name, member in vars(TickPath).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    missing = public - vars(RecordedPath).keys()
    assert not missing, f"RecordedPath lets {missing} pass unrecorded"


def test_frames_are_kept_as_they_came_with_time_and_connection() -> None:
    sent = [
        Frame(NOW_NS + 1, b"\x00"),
        Frame(NOW_NS + 2, b"\xff" * 9, 2),
        Frame(NOW_NS + 3, b"", 1),
    ]

    async def script(stage: RecordedStage) -> None:
        await stage.receive(*sent)

    steps = steps_of(record(script))
    assert [frame for step in steps for frame in step.frames] == sent


def test_a_recording_holds_no_credential_and_no_address() -> None:
    stage = record(an_eventful_day)
    for recording in tapes(stage.folder.contents):
        text = recording.tape.header.decode()
        for secret in ("the-api-key", "the-access-token", "the-password", "example"):
            assert secret not in text


def test_the_header_gives_back_settings_and_universe() -> None:
    stage = record(an_eventful_day)
    header = tapes(stage.folder.contents)[0].header
    assert header.config.subscription == CONFIG.subscription
    assert header.config.publish == CONFIG.publish
    assert header.config.pricing == CONFIG.pricing
    assert header.config.flush == CONFIG.flush
    assert header.epoch == stage.engine.epoch
    assert header.universe.books == stage.engine.universe.books
    assert header.universe.instrument_token.tolist() == (
        stage.engine.universe.instrument_token.tolist()
    )
    assert header.universe.other_leg.tolist() == stage.engine.universe.other_leg.tolist()


def test_a_step_that_killed_the_path_is_on_the_tape_and_kills_its_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deadly = index_full_packet(NIFTY_TOKEN, 666, (0, 0, 0, 0), 0)
    decode = pipeline.decode.frames

    def refuse(frames: Sequence[Frame], **order: Any) -> object:
        if any(frame.payload.endswith(deadly) for frame in frames):
            raise InvariantViolatedError("Invariant: a bug of ours")
        return decode(frames, **order)

    monkeypatch.setattr(pipeline.decode, "frames", refuse)
    kept = []

    async def script(stage: RecordedStage) -> None:
        kept.append(stage)
        await stage.spot()
        await stage.receive(deadly)
        await stage.pass_s(10.0)

    with pytest.raises(ExceptionGroup):
        record(script)
    (stage,) = kept
    assert steps_of(stage)[-1].frames[-1].payload.endswith(deadly)
    with pytest.raises(InvariantViolatedError, match="a bug of ours"):
        replay(stage.folder.contents)


def test_what_was_sent_again_because_redis_was_down_is_replayed_once() -> None:
    async def script(stage: RecordedStage) -> None:
        await stage.come_up()
        stage.publisher.is_down = True
        await stage.spot()
        await stage.pass_s(2.0)
        stage.publisher.is_down = False
        await stage.pass_s(2.0)
        await stage.chain()

    stage = record(script)
    assert stage.publisher.attempts > len(stage.publisher.messages)
    published, _ = replay(stage.folder.contents)
    assert published.everything() == stage.publisher.everything()


def test_a_killed_process_loses_a_second_at_most() -> None:
    seen: list[tuple[int, dict[str, bytes]]] = []

    async def script(stage: RecordedStage) -> None:
        for _ in range(40):
            await stage.spot()
            await stage.pass_s(0.07)
            copy = {name: bytes(content) for name, content in stage.folder.contents.items()}
            seen.append((stage.clock.now_ns(), copy))

    record(script)
    for now_ns, contents in seen:
        if now_ns - NOW_NS > 1.5 * SECOND_NS:
            assert tapes(contents)[-1].tape.last_ns > now_ns - 1.2 * SECOND_NS


def test_the_replay_of_a_killed_run_is_the_beginning_of_what_it_published() -> None:
    cuts: list[tuple[int, dict[str, bytes]]] = []

    async def script(stage: RecordedStage) -> None:
        await an_eventful_day(stage)
        copy = {name: bytes(content) for name, content in stage.folder.contents.items()}
        cuts.append((len(stage.publisher.everything()[0]), copy))

    stage = record(script)
    ((_, contents),) = cuts
    (name,) = contents
    whole = stage.publisher.everything()[0]
    for size in range(len(contents[name]), len(contents[name]) - 400, -17):
        published, summary = replay({name: contents[name][:size]})
        messages = published.everything()[0]
        assert messages == whole[: len(messages)]
        assert messages
        assert summary.losses == 0


def test_a_day_that_ends_in_india_ends_the_file_and_begins_another() -> None:
    midnight_ist_ns = NOW_NS + 13 * 3_600 * SECOND_NS
    start_ns = midnight_ist_ns - 3 * SECOND_NS
    stage = record(an_eventful_day, start_ns=start_ns)
    assert sorted(stage.folder.contents) == [
        f"frames/2026-11-20/{stage.engine.epoch}-000.tape",
        f"frames/2026-11-21/{stage.engine.epoch}-001.tape",
    ]
    first, second = tapes(stage.folder.contents)
    assert first.tape.last_ns < midnight_ist_ns <= second.tape.first_ns
    published, summary = replay(stage.folder.contents)
    assert published.everything() == stage.publisher.everything()
    assert summary.losses == 0


def test_a_later_file_alone_knows_what_was_subscribed() -> None:
    start_ns = NOW_NS + 13 * 3_600 * SECOND_NS - 3 * SECOND_NS
    stage = record(an_eventful_day, start_ns=start_ns)
    last = max(stage.folder.contents)
    published, _ = replay({last: stage.folder.contents[last]})
    batches = [json.loads(raw) for _, raw in published.messages if b'"batch"' in raw]
    assert sum(batch["n"] for batch in batches) > 0


@pytest.mark.parametrize("prefix", ["replay:ticker:v1:", PREFIX])
def test_a_replay_goes_to_the_same_channels_under_the_prefix_it_is_given(prefix: str) -> None:
    stage = record(an_eventful_day)
    published, summary = replay(stage.folder.contents, channel_prefix=prefix)
    names = {f"{prefix}ticks:NIFTY", f"{prefix}bars:NIFTY:1s"}
    assert {name for name, _ in published.messages} == names
    assert [raw for _, raw in published.messages] == [
        raw for _, raw in stage.publisher.everything()[0]
    ]
    assert summary.sha256 == replay(stage.folder.contents)[1].sha256
