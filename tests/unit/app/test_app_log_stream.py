"""Whoever reads the log, or does not, keeps nobody waiting and ends nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from typing import TYPE_CHECKING, Final

import pytest

from app.log_stream import LogStream

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPE_PAGES: Final = 4


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_PAGES * select.PIPE_BUF)
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb"):
        yield reading, writing


def told(lines: int) -> str:
    return f"{lines} dropped\n"


def read(descriptor: int) -> str:
    text = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(descriptor, 1 << 16):
            text += part
    return text.decode()


def test_lines_come_out_as_they_went_in(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = LogStream(writing, told)
    stream.write("ä line\n")
    stream.write("another\n")
    assert (read(reading), stream.dropped) == ("ä line\nanother\n", 0)


def test_a_reader_that_stalls_costs_lines_and_no_wait_and_is_told_how_many(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    stream = LogStream(writing, told)
    line = "x" * 99 + "\n"
    for _ in range(1_000):  # a blocking write would never come back
        stream.write(line)
    assert stream.dropped > 800
    before = read(reading)
    assert before == line * (1_000 - stream.dropped)
    stream.write("it goes on\n")
    assert read(reading) == f"{stream.dropped} dropped\nit goes on\n"
    stream.write("and on\n")
    assert read(reading) == "and on\n"


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb"):
        stream = LogStream(writing, told)
        os.close(reading)
        stream.write("nobody reads this\n")
        stream.write("or this\n")
    assert stream.dropped == 2


def test_a_long_line_that_is_cut_off_does_not_run_into_the_next(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    stream = LogStream(writing, told)
    stream.write("y" * (2 * PIPE_PAGES * select.PIPE_BUF) + "\n")
    assert stream.dropped == 1
    assert set(read(reading)) == {"y"}
    stream.write("next\n")
    assert read(reading) == "\n1 dropped\nnext\n"


def test_a_full_disk_ends_nothing() -> None:
    with open("/dev/full", "w", encoding="ascii") as full:  # noqa: PTH123 - a device
        stream = LogStream(full.fileno(), told)
        stream.write("no room\n")
        assert stream.dropped == 1
