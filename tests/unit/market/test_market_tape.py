"""The recording format: what goes in comes out, and what is broken is left out and told."""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ticker_service.errors import RecordingError
from ticker_service.market import tape
from ticker_service.market.tape import BLOCK_HEADER, MAGIC, Step, Tape, TapeWriter
from ticker_service.ports import Frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = b'{"format": 1}'
SECOND_NS = 10**9

times = st.integers(0, 2**63 - 1)
frames = st.builds(Frame, times, st.binary(max_size=600), st.integers(0, 2**16 - 1))
flushes = st.builds(
    Step,
    name=st.just(tape.FLUSH),
    at_ns=times,
    readings_ns=st.lists(times, max_size=5),
    frames=st.lists(frames, max_size=6),
)
others = st.builds(
    Step,
    name=st.sampled_from(["reprice", "heartbeat", "want", "lost", "of another version"]),
    at_ns=times,
    readings_ns=st.lists(times, max_size=3),
    arguments=st.dictionaries(
        st.sampled_from(["rows", "reason", "from_ns", "feed_of_book"]),
        st.one_of(times, st.text(max_size=20), st.lists(st.integers(0, 9_000), max_size=50)),
    ),
)
steps_of_any_kind = st.lists(st.one_of(flushes, others), max_size=12)


def flush(at_ns: int, *payloads: bytes) -> Step:
    return Step(
        name=tape.FLUSH,
        at_ns=at_ns,
        readings_ns=[at_ns + 5],
        frames=[Frame(at_ns - 1, payload, 1) for payload in payloads],
    )


def want(at_ns: int, *rows: int) -> Step:
    return Step(name=tape.WANT, at_ns=at_ns, arguments={"rows": list(rows)})


def recorded(*blocks: Sequence[Step]) -> bytes:
    """A file with these steps, each group in a block of its own."""
    writer = TapeWriter()
    content = writer.opening(HEADER, at_ns=0)
    for block in blocks:
        content += b"".join(writer.blocks(block))
    return content


def opened(content: bytes) -> Tape:
    return Tape(io.BytesIO(content), "a.tape")


def facts(steps: Sequence[Step] | Iterator[Step]) -> list[tuple[object, ...]]:
    return [
        (s.name, s.at_ns, list(s.readings_ns), list(s.frames), dict(s.arguments)) for s in steps
    ]


def resealed(content: bytes, offset: int, **changed: int) -> bytes:
    """The file with other facts in one block's header, and a checksum that fits them."""
    names = ["marker", "kind", "codec", "flags", "number", "raw", "stored", "steps"]
    names += ["first", "last", "body", "own"]
    values = dict(zip(names, BLOCK_HEADER.unpack_from(content, offset), strict=True))
    head = BLOCK_HEADER.pack(*(values | changed).values())[:-4]
    end = offset + BLOCK_HEADER.size
    return content[:offset] + head + zlib.crc32(head).to_bytes(4, "little") + content[end:]


@given(steps_of_any_kind)
def test_what_is_recorded_is_read_back_step_by_step(steps: list[Step]) -> None:
    assert facts(opened(recorded(steps)).steps()) == facts(steps)


@given(st.lists(steps_of_any_kind, max_size=4))
def test_the_index_knows_every_block_its_steps_and_its_times(groups: list[list[Step]]) -> None:
    groups = [group for group in groups if group]
    index = opened(recorded(*groups)).blocks
    assert [(b.steps, b.first_ns, b.last_ns) for b in index] == [
        (len(g), min(s.at_ns for s in g), max(s.at_ns for s in g)) for g in groups
    ]


def test_the_header_is_read_back() -> None:
    assert opened(recorded([])).header == HEADER


def test_a_recording_without_a_step_is_empty_and_whole() -> None:
    empty = opened(recorded())
    assert (list(empty.steps()), empty.torn_bytes, empty.first_ns, empty.last_ns) == ([], 0, 0, 0)


def test_many_steps_become_blocks_of_about_a_megabyte_each_with_whole_steps() -> None:
    steps = [flush(at, bytes(100_000)) for at in range(1, 41)]
    read = opened(recorded(steps))
    assert [block.steps for block in read.blocks] == [11, 11, 11, 7]
    assert facts(read.steps()) == facts(steps)


def test_a_tail_torn_at_any_byte_costs_the_last_block_and_nothing_else() -> None:
    whole = recorded([want(1, 4)], [flush(2, b"abc")])
    before = recorded([want(1, 4)])
    last = recorded([want(1, 4)], [flush(2, b"abc")], [flush(3, b"x" * 40, b"y"), flush(4, b"z")])
    assert last.startswith(whole)
    assert whole.startswith(before)
    for size in range(len(whole), len(last)):
        torn = opened(last[:size])
        assert facts(torn.steps()) == facts([want(1, 4), flush(2, b"abc")]), size
        assert torn.torn_bytes == size - len(whole), size
        assert torn.damaged_bytes == 0, size
    assert opened(last).torn_bytes == 0


def test_a_tail_that_has_its_length_and_not_its_bytes_is_torn() -> None:
    whole, last = recorded([flush(1, b"a")]), recorded([flush(1, b"a")], [flush(2, b"b" * 900)])
    for kept in range(len(whole), len(last)):
        # A file system may have grown the file before it wrote the data.
        torn = opened(last[:kept] + bytes(len(last) - kept))
        assert facts(torn.steps()) == facts([flush(1, b"a")])
        assert torn.torn_bytes == len(last) - len(whole)


def test_several_unfinished_blocks_at_the_end_are_all_dropped() -> None:
    whole = recorded([flush(1, b"a")])
    more = recorded([flush(1, b"a")], [flush(2, b"b" * 900)], [flush(3, b"c" * 900)])
    second = len(recorded([flush(1, b"a")], [flush(2, b"b" * 900)]))
    body = whole[:0] + more[: second - 3] + b"\0\0\0" + more[second:-3] + b"\0\0\0"
    torn = opened(body)
    assert facts(torn.steps()) == facts([flush(1, b"a")])
    assert torn.torn_bytes == len(body) - len(whole)


@pytest.mark.parametrize("places", [1, 4, 60])
def test_a_damaged_block_is_left_out_and_its_times_are_told(places: int) -> None:
    first, last = [flush(1 * SECOND_NS, b"a")], [flush(9 * SECOND_NS, b"z")]
    middle = [flush(2 * SECOND_NS, b"m" * 90), flush(3 * SECOND_NS, b"n")]
    content = bytearray(recorded(first, middle, last))
    begin = len(recorded(first))
    end = len(recorded(first, middle))
    for offset in range(begin, end, max((end - begin) // places, 1)):
        content[offset] ^= 0xFF
    damaged = opened(bytes(content))
    names = [(s.name, s.at_ns // SECOND_NS) for s in damaged.steps()]
    told = [s for s in damaged.steps() if s.name == tape.LOST]
    assert names[0] == (tape.FLUSH, 1)
    assert names[-1] == (tape.FLUSH, 9)
    assert len(told) == 1
    assert told[0].arguments["reason"] == "damaged"
    assert int(str(told[0].arguments["from_ns"])) <= 2 * SECOND_NS
    assert int(str(told[0].arguments["to_ns"])) >= 3 * SECOND_NS
    assert damaged.damaged_bytes >= end - begin


def test_a_block_that_is_missing_altogether_is_noticed() -> None:
    one, two = [flush(1, b"a")], [flush(2, b"b")]
    writer = TapeWriter()
    begin = writer.opening(HEADER, at_ns=0)
    parts = [b"".join(writer.blocks(group)) for group in (one, two, [flush(3, b"c")])]
    cut = opened(begin + parts[0] + parts[2])
    assert [s.name for s in cut.steps()] == [tape.FLUSH, tape.LOST, tape.FLUSH]
    first_cut = opened(begin + parts[1] + parts[2])
    assert [s.name for s in first_cut.steps()] == [tape.LOST, tape.FLUSH, tape.FLUSH]


@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_any_bytes_in_the_place_of_others_are_read_or_left_out(junk: bytes, at: int) -> None:
    content = recorded([flush(1, b"a" * 50)], [flush(2, b"b")], [flush(3, b"c")])
    at = len(MAGIC) + at % (len(content) - len(MAGIC))
    damaged = content[:at] + junk + content[at + len(junk) :]
    try:
        found = list(opened(damaged).steps())
    except RecordingError:
        return
    known = {b"a" * 50, b"b", b"c"}
    assert {frame.payload for step in found for frame in step.frames} <= known


@given(st.binary(max_size=2_000))
def test_any_file_is_a_recording_or_a_clear_error(content: bytes) -> None:
    for whole in (content, MAGIC + content, recorded([])[:-1] + content):
        with contextlib.suppress(RecordingError):
            list(opened(whole).steps())


@given(st.binary(max_size=400))
def test_a_body_that_lies_behind_a_right_checksum_is_lost_not_fatal(body: bytes) -> None:
    writer = TapeWriter()
    content = writer.opening(HEADER, at_ns=0)
    content += b"".join(writer.blocks([flush(1, b"a")]))
    content += writer._block(tape.KIND_STEPS, body, tape._Span(5, 6, 1))
    content += b"".join(writer.blocks([flush(9, b"z")]))
    steps = list(opened(content).steps())
    assert (steps[0].at_ns, steps[-1].at_ns) == (1, 9)


def test_a_length_that_lies_allocates_nothing() -> None:
    content = recorded([flush(1, b"a")], [flush(2, b"b")])
    second = len(recorded([flush(1, b"a")]))
    for changed in ({"raw": 2**32 - 1}, {"raw": 1}, {"stored": 2**32 - 1}):
        lying = opened(resealed(content, second, **changed))
        assert facts(lying.steps()) == facts([flush(1, b"a")])


@pytest.mark.parametrize("changed", [{"kind": 9}, {"codec": 9}])
def test_a_block_of_a_later_version_is_refused_by_name(changed: dict[str, int]) -> None:
    content = recorded([flush(1, b"a")])
    with pytest.raises(RecordingError, match=r"a\.tape at \d+: kind=\d+ codec=\d+"):
        opened(resealed(content, len(recorded([])), **changed))


@pytest.mark.parametrize("content", [b"", b"TKTAPE\x01", b"GIF89a", b"TKTAPE\x02\n"])
def test_what_is_no_recording_is_refused(content: bytes) -> None:
    with pytest.raises(RecordingError, match=r"a\.tape is no recording of this version"):
        opened(content)


def test_a_recording_that_ends_in_its_header_is_refused() -> None:
    whole = recorded([])
    for size in range(len(MAGIC), len(whole)):
        with pytest.raises(RecordingError, match=r"a\.tape.*header"):
            opened(whole[:size])


def test_seeking_reads_the_blocks_from_that_time_on_and_no_others() -> None:
    groups = [[flush(second * SECOND_NS, b"x" * 50)] for second in range(1, 101)]
    content = recorded(*groups)

    class Watched(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            part = super().read(size)
            self.taken += len(part)
            return part

    file = Watched(content)
    read = Tape(file, "a.tape")
    after_opening = file.taken
    assert [s.at_ns // SECOND_NS for s in read.steps(from_ns=99 * SECOND_NS)] == [99, 100]
    assert file.taken - after_opening < len(content) // 20


def test_seeking_says_first_what_was_subscribed_then() -> None:
    content = recorded(
        [want(1, 1, 2), flush(1, b"a"), want(2, 3)], [flush(3, b"b")], [flush(4, b"c"), want(5, 6)]
    )
    steps = list(opened(content).steps(from_ns=4))
    assert facts(steps) == facts([want(2, 3), flush(4, b"c"), want(5, 6)])


def test_seeking_beyond_the_end_finds_nothing() -> None:
    assert list(opened(recorded([flush(1, b"a")])).steps(from_ns=2)) == []


def test_a_clock_that_stepped_back_keeps_the_order_of_the_steps() -> None:
    steps = [flush(5, b"a"), flush(2, b"b"), flush(7, b"c")]
    read = opened(recorded(steps))
    assert (read.first_ns, read.last_ns) == (2, 7)
    assert facts(read.steps(from_ns=6)) == facts(steps)
