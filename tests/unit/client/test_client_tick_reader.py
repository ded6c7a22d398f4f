"""The reader's promise: what it yields is complete, or it says that it is not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from ticker_service.client import Message, TickReader
from ticker_service.errors import ConfigurationError

BOOK = "NIFTY"
EPOCH = 1_000
Seen = list[tuple[str, int]]


class StandInSource:
    """Keys, a count of how often they were asked for, and messages that come and then end."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.asked = 0
        self.error: Exception | None = None
        self.arriving: list[bytes] = []

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    async def get(self, key: str) -> bytes | None:
        self.asked += 1
        if self.error:
            raise self.error
        return self.values.get(key)

    async def receive(self) -> bytes | None:
        return self.arriving.pop(0) if self.arriving else None


class Reading:
    """A reader whose Redis is a dictionary and whose time is a number."""

    def __init__(self) -> None:
        self.reader = TickReader("redis://127.0.0.1:1", [BOOK, "BANKNIFTY"])
        self.redis = self.reader._source = StandInSource()
        self.now_s = 1_000.0
        self.reader._monotonic_s = lambda: self.now_s

    def snapshot(self, seq: int, *, epoch: int = EPOCH, book: str = BOOK) -> None:
        body = {"v": 1, "kind": "snapshot", "book": book, "epoch": epoch, "seq": seq}
        body["published_at_us"] = 1
        columns = {"instrument_token": [1], "ltp": [float(seq)]}
        key = f"ticker:v1:snapshot:{book}"
        self.redis.values[key] = json.dumps(body | {"columns": columns}).encode()

    def receive(
        self, kind: str, seq: int, *, epoch: int = EPOCH, book: str = BOOK, later_s: float = 1.0
    ) -> Seen:
        """Let a message come, and return what the caller gets to see of it."""
        self.now_s += later_s
        self.redis.arriving.append(raw(kind, seq, epoch=epoch, book=book))
        return [(message.kind, message.body["seq"]) for message in self.read()]

    def read(self) -> list[Message]:
        """Read what has come."""

        async def everything() -> list[Message]:
            return [message async for message in self.reader]

        return asyncio.run(everything())

    def join(self, seq: int = 10) -> None:
        """Be in the middle of a book, at ``seq``."""
        self.snapshot(seq)
        assert self.receive("batch", seq) == [("snapshot", seq)]


def raw(kind: str, seq: int, *, epoch: int = EPOCH, book: str = BOOK, v: int = 1) -> bytes:
    body: dict[str, Any] = {"v": v, "kind": kind, "book": book, "epoch": epoch, "seq": seq}
    if kind == "batch":
        body["columns"] = {"instrument_token": [2], "ltp": [float(seq)]}
    return json.dumps(body).encode()


@pytest.fixture
def reading() -> Reading:
    return Reading()


def test_a_book_begins_with_its_snapshot_and_then_what_the_snapshot_does_not_hold(
    reading: Reading,
) -> None:
    reading.snapshot(9)
    assert reading.receive("batch", 10) == [("snapshot", 9), ("batch", 10)]


def test_a_message_the_snapshot_holds_already_is_not_repeated(reading: Reading) -> None:
    reading.snapshot(10)
    assert reading.receive("batch", 10) == [("snapshot", 10)]


def test_what_follows_the_snapshot_is_passed_on_as_it_comes(reading: Reading) -> None:
    reading.join(10)
    seen = [
        reading.receive(kind, seq)
        for kind, seq in [("batch", 11), ("gap", 12), ("status", 13), ("smile", 14), ("new", 15)]
    ]
    assert seen == [
        [("batch", 11)],
        [("gap", 12)],
        [("status", 13)],
        [("smile", 14)],
        [("new", 15)],
    ]


def test_nothing_is_shown_before_there_is_a_snapshot(reading: Reading) -> None:
    assert reading.receive("batch", 10) == []


def test_messages_that_came_before_the_snapshot_follow_it_in_order(reading: Reading) -> None:
    reading.snapshot(8)  # set before the first message that waits: something lies between
    reading.receive("batch", 10)
    reading.receive("batch", 11)
    reading.snapshot(10)
    assert reading.receive("batch", 12) == [("snapshot", 10), ("batch", 11), ("batch", 12)]


def test_a_snapshot_older_than_the_first_message_waits_for_the_next(reading: Reading) -> None:
    reading.snapshot(8)
    assert reading.receive("batch", 10) == []


def test_a_snapshot_of_another_epoch_is_not_joined_to(reading: Reading) -> None:
    reading.snapshot(10, epoch=EPOCH - 1)
    assert reading.receive("batch", 10) == []


def test_a_heartbeat_can_be_the_first_message(reading: Reading) -> None:
    reading.snapshot(10)
    assert reading.receive("heartbeat", 10) == [("snapshot", 10)]


def test_a_heartbeat_first_needs_a_snapshot_that_reaches_up_to_it(reading: Reading) -> None:
    reading.snapshot(9)
    assert reading.receive("heartbeat", 10) == []


def test_a_message_that_comes_twice_is_shown_once(reading: Reading) -> None:
    reading.join(10)
    seen = [
        reading.receive("batch", 11),
        reading.receive("batch", 11),
        reading.receive("batch", 12),
    ]
    assert seen == [[("batch", 11)], [], [("batch", 12)]]


def test_messages_the_snapshot_ran_ahead_of_are_not_shown(reading: Reading) -> None:
    reading.snapshot(12)
    reading.receive("batch", 10)
    seen = [
        reading.receive("batch", 11),
        reading.receive("batch", 12),
        reading.receive("batch", 13),
    ]
    assert seen == [[], [], [("batch", 13)]]


def test_a_missing_number_is_told_and_the_book_begins_anew(reading: Reading) -> None:
    reading.join(10)
    reading.snapshot(13)
    assert reading.receive("batch", 13) == [("missed", 13), ("snapshot", 13)]


def test_missed_numbers_are_counted(reading: Reading) -> None:
    reading.join(10)
    reading.receive("batch", 14)
    assert reading.reader.missed == 3


def test_a_missed_message_says_which_numbers(reading: Reading) -> None:
    reading.join(10)
    reading.redis.arriving = [raw("batch", 14)]
    (missed,) = reading.read()
    assert missed.body == {"expected_seq": 11, "seq": 14, "epoch": EPOCH}


def test_after_a_loss_nothing_is_shown_until_a_snapshot_covers_it(reading: Reading) -> None:
    reading.join(10)
    assert reading.receive("batch", 13) == [("missed", 13)]
    assert reading.receive("batch", 14) == []
    reading.snapshot(13)
    assert reading.receive("batch", 15) == [("snapshot", 13), ("batch", 14), ("batch", 15)]


def test_a_heartbeat_ahead_of_us_reveals_a_loss_at_the_end(reading: Reading) -> None:
    reading.join(10)
    reading.snapshot(12)
    assert reading.receive("heartbeat", 12) == [("missed", 12), ("snapshot", 12)]
    assert reading.reader.missed == 2


def test_a_heartbeat_with_our_number_is_passed_on(reading: Reading) -> None:
    reading.join(10)
    assert reading.receive("heartbeat", 10) == [("heartbeat", 10)]


def test_a_heartbeat_that_crossed_the_snapshot_is_dropped(reading: Reading) -> None:
    reading.join(10)
    assert reading.receive("heartbeat", 9) == []


def test_a_new_epoch_begins_anew_and_is_no_loss(reading: Reading) -> None:
    reading.join(10)
    reading.snapshot(1, epoch=EPOCH + 1)
    assert reading.receive("batch", 1, epoch=EPOCH + 1) == [("snapshot", 1)]
    assert reading.reader.missed == 0


def test_a_gap_between_two_runs_is_told_before_the_snapshot_that_lies_beyond_it(
    reading: Reading,
) -> None:
    reading.join(10)
    later = EPOCH + 1
    assert reading.receive("gap", 1, epoch=later) == []
    assert reading.receive("batch", 2, epoch=later) == []
    reading.snapshot(3, epoch=later)
    assert reading.receive("batch", 3, epoch=later) == [("gap", 1), ("snapshot", 3)]
    assert reading.receive("batch", 4, epoch=later) == [("batch", 4)]


def test_a_gap_that_the_snapshot_does_not_reach_is_told_in_its_turn(reading: Reading) -> None:
    reading.join(10)
    later = EPOCH + 1
    assert reading.receive("gap", 1, epoch=later) == []
    reading.snapshot(0, epoch=later)
    seen = reading.receive("batch", 2, epoch=later)
    assert seen == [("snapshot", 0), ("gap", 1), ("batch", 2)]


def test_who_joins_is_not_told_of_gaps_before_its_first_snapshot(reading: Reading) -> None:
    reading.receive("gap", 10)
    reading.snapshot(11)
    assert reading.receive("batch", 11) == [("snapshot", 11)]


def test_what_never_arrived_before_the_first_snapshot_is_no_loss(reading: Reading) -> None:
    reading.receive("batch", 10)
    reading.snapshot(14)
    assert reading.receive("batch", 14) == [("snapshot", 14)]
    assert reading.reader.missed == 0


def test_a_loss_while_waiting_for_a_later_snapshot_is_counted(reading: Reading) -> None:
    reading.join(10)
    assert reading.receive("batch", 12) == [("missed", 12)]
    assert reading.receive("batch", 15) == [("missed", 15)]
    assert reading.reader.missed == 1 + 2


def test_a_lower_epoch_is_followed_once_the_higher_one_is_silent(reading: Reading) -> None:
    reading.join(10)
    reading.snapshot(5, epoch=EPOCH - 1)
    assert reading.receive("batch", 5, epoch=EPOCH - 1, later_s=2.9) == []
    seen = reading.receive("batch", 6, epoch=EPOCH - 1, later_s=0.1)
    assert seen == [("missed", 6), ("snapshot", 5), ("batch", 6)]
    assert reading.receive("batch", 7, epoch=EPOCH - 1) == [("batch", 7)]
    assert reading.reader.missed == 0


def test_a_step_back_of_the_epoch_says_so(reading: Reading) -> None:
    reading.join(10)
    reading.now_s += 3.0
    reading.redis.arriving = [raw("batch", 6, epoch=EPOCH - 1)]
    missed = reading.read()[0]
    reason = "epoch_stepped_back"
    assert missed.body == {"expected_seq": 6, "seq": 6, "epoch": EPOCH - 1, "reason": reason}


def test_a_heartbeat_of_the_higher_epoch_keeps_the_lower_one_out(reading: Reading) -> None:
    reading.join(10)
    for _ in range(5):
        assert reading.receive("heartbeat", 10, later_s=2.0) == [("heartbeat", 10)]
        assert reading.receive("batch", 6, epoch=EPOCH - 1, later_s=2.0) == []


def test_the_higher_epoch_wins_as_soon_as_it_speaks_again(reading: Reading) -> None:
    reading.join(10)
    reading.receive("batch", 6, epoch=EPOCH - 1, later_s=3.0)
    reading.snapshot(11)
    assert reading.receive("batch", 11) == [("snapshot", 11)]


def test_a_publisher_of_the_past_is_ignored(reading: Reading) -> None:
    reading.join(10)
    assert reading.receive("batch", 11, epoch=EPOCH - 1) == []
    assert reading.receive("batch", 11) == [("batch", 11)]


def test_books_are_numbered_apart(reading: Reading) -> None:
    reading.join(10)
    reading.snapshot(500, book="BANKNIFTY")
    seen = [reading.receive("batch", 501, book="BANKNIFTY"), reading.receive("batch", 11)]
    assert seen == [[("snapshot", 500), ("batch", 501)], [("batch", 11)]]


def test_a_busy_book_does_not_ask_for_its_snapshot_with_every_message(reading: Reading) -> None:
    for seq in range(10, 60):
        reading.receive("batch", seq, later_s=0.001)
    assert reading.redis.asked == 1


def test_what_waits_for_a_snapshot_that_never_comes_does_not_grow(reading: Reading) -> None:
    for seq in range(10, 3_000):
        reading.receive("batch", seq, later_s=0.0)
    waiting = reading.reader._positions[BOOK].waiting
    assert waiting is not None
    assert len(waiting) <= 1_000


def test_what_waits_for_a_snapshot_that_stands_still_does_not_grow(reading: Reading) -> None:
    reading.snapshot(1)
    for seq in range(10, 3_000):
        reading.receive("batch", seq, later_s=0.0)
    waiting = reading.reader._positions[BOOK].waiting
    assert waiting is not None
    assert len(waiting) <= 1_001


@pytest.mark.parametrize(
    "strange",
    [
        raw("batch", 10, v=2),
        b"",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"{}",
        b'{"v": 1, "kind": "batch", "book": "NIFTY"}',
        b'{"v": 1, "kind": "batch", "book": "NIFTY", "epoch": "x", "seq": 10}',
    ],
)
def test_what_is_none_of_this_contract_is_passed_over_and_counted(
    reading: Reading, strange: bytes
) -> None:
    reading.snapshot(9)
    reading.redis.arriving = [strange, raw("batch", 10)]
    assert [message.kind for message in reading.read()] == ["snapshot", "batch"]
    assert reading.reader.unreadable == 1


def test_a_reader_that_is_cancelled_while_it_recovers_goes_on_without_a_loss(
    reading: Reading,
) -> None:
    reading.join(10)

    async def never(_: str) -> bytes | None:
        await asyncio.Event().wait()
        raise AssertionError

    async def scene() -> Seen:
        patient, reading.redis.get = reading.redis.get, never  # type: ignore[method-assign]
        reading.redis.arriving = [raw("batch", 13)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(reading.reader)
        reading.redis.get = patient  # type: ignore[method-assign]
        reading.snapshot(13)
        reading.now_s += 1.0
        reading.redis.arriving = [raw("batch", 14), raw("batch", 15)]
        return [(message.kind, message.body["seq"]) async for message in reading.reader]

    news = [("missed", 13), ("snapshot", 13), ("batch", 14), ("batch", 15)]
    assert asyncio.run(scene()) == news


def test_reading_may_stop_and_go_on_between_any_two_messages(reading: Reading) -> None:
    reading.snapshot(8)
    reading.redis.arriving = [raw("batch", 10), raw("batch", 11)]
    assert reading.read() == []
    reading.snapshot(10)
    reading.now_s += 1.0
    reading.redis.arriving = [raw("batch", 12)]

    async def one() -> tuple[str, int]:
        async for message in reading.reader:
            return message.kind, message.body["seq"]
        raise AssertionError

    seen = [asyncio.run(one()) for _ in range(3)]
    assert seen == [("snapshot", 10), ("batch", 11), ("batch", 12)]


def test_a_snapshot_that_cannot_be_read_is_asked_for_again(reading: Reading) -> None:
    reading.join(10)
    reading.redis.error = RedisConnectionError("closed")
    assert reading.receive("batch", 12) == [("missed", 12)]
    reading.redis.error = None
    reading.snapshot(12)
    assert reading.receive("batch", 13) == [("snapshot", 12), ("batch", 13)]


@pytest.mark.parametrize(
    "url",
    [
        *("", "canary", "http://x", "redis://h:99999", "redis://h:canary", "redis://[canary"),
        *("redis://:canary/x@127.0.0.1:1/0", "redis://h/0?socket_timeout=canary"),
        "redis://h/0?canary=1",
    ],
)
def test_an_address_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        TickReader(url, [BOOK])
    assert "canary" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("books", [[], [BOOK, BOOK]])
def test_books_are_named_once_each(books: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="each once"):
        TickReader("redis://127.0.0.1:1", books)


def test_the_table_is_that_of_the_message_shown_last(reading: Reading) -> None:
    reading.join(10)
    table = reading.reader.table(BOOK)
    assert (table.seq, table.is_current, len(table)) == (10, True, 1)
    assert reading.receive("batch", 11) == [("batch", 11)]
    assert (table.seq, len(table)) == (11, 2)
    assert table.row(2) == {"instrument_token": 2, "ltp": 11.0}


def test_a_table_says_when_something_is_missing_until_the_snapshot_that_makes_it_good(
    reading: Reading,
) -> None:
    reading.join(10)
    reading.receive("batch", 13)
    assert not reading.reader.table(BOOK).is_current
    reading.snapshot(14)
    reading.receive("batch", 14)
    table = reading.reader.table(BOOK)
    assert (table.is_current, table.seq) == (True, 14)
    assert table.to_numpy()["instrument_token"].tolist() == [1]


def test_a_table_is_rid_now_and_then_of_what_is_no_longer_subscribed(reading: Reading) -> None:
    reading.join(10)
    reading.receive("batch", 11)
    table = reading.reader.table(BOOK)
    assert table.to_numpy()["instrument_token"].tolist() == [1, 2]
    reading.snapshot(11)  # holds the first instrument alone
    reading.receive("heartbeat", 11)
    assert len(table) == 2
    reading.receive("heartbeat", 11, later_s=10.0)
    assert table.to_numpy()["instrument_token"].tolist() == [1]


def test_a_table_of_a_book_that_is_not_read_is_an_error_that_names_those_that_are(
    reading: Reading,
) -> None:
    with pytest.raises(ConfigurationError, match=r"SENSEX.*NIFTY.*BANKNIFTY"):
        reading.reader.table("SENSEX")


def test_columns_are_read_as_rows() -> None:
    body = {"columns": {"instrument_token": [1, 2], "ltp": [5.0, None]}}
    rows = Message("batch", BOOK, body).rows()
    assert rows == [{"instrument_token": 1, "ltp": 5.0}, {"instrument_token": 2, "ltp": None}]


def test_instruments_are_found_by_token(reading: Reading) -> None:
    columns = {"instrument_token": [1, 2], "tradingsymbol": ["A", "B"]}
    key = f"ticker:v1:instruments:{BOOK}"
    body = {"v": 1, "kind": "instruments", "book": BOOK, "epoch": EPOCH, "seq": 0}
    reading.redis.values[key] = json.dumps(body | {"columns": columns}).encode()
    found = asyncio.run(reading.reader.instruments(BOOK))
    assert {token: row["tradingsymbol"] for token, row in found.items()} == {1: "A", 2: "B"}


def test_a_book_nobody_publishes_has_no_instruments(reading: Reading) -> None:
    assert asyncio.run(reading.reader.instruments(BOOK)) == {}


@st.composite
def deliveries(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """A publisher's messages with losses and repeats: (kind, seq, the snapshot's seq then)."""
    sent: list[tuple[str, int, int]] = []
    seq, snapshot_seq = 0, 0
    for _ in range(draw(st.integers(1, 60))):
        kind = draw(st.sampled_from(["batch", "batch", "gap", "status", "smile", "heartbeat"]))
        seq += kind != "heartbeat"
        if draw(st.booleans()):
            snapshot_seq = seq
        copies = draw(st.sampled_from([0, 1, 1, 1, 1, 2]))
        sent += [(kind, seq, snapshot_seq)] * copies
    return sent


@given(deliveries())
def test_whatever_is_lost_or_repeated_the_caller_misses_nothing_without_being_told(
    sent: list[tuple[str, int, int]],
) -> None:
    reading = Reading()
    has_state, at = False, 0
    early: set[int] = set()
    for kind, seq, snapshot_seq in sent:
        reading.snapshot(snapshot_seq)
        for seen_kind, seen_seq in reading.receive(kind, seq):
            if seen_kind == "missed":
                has_state = False
            elif seen_kind == "snapshot":
                assert seen_seq >= at
                has_state, at = True, seen_seq
            elif seen_kind == "gap" and not has_state:
                assert seen_seq not in early  # once, before the snapshot that lies beyond it
                early.add(seen_seq)
            else:
                assert has_state
                assert seen_seq == (at if seen_kind == "heartbeat" else at + 1)
                at = seen_seq
