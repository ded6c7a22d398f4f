"""A silent publisher is seen as one."""

from __future__ import annotations

import pytest
from rich.console import Console

from app.console.chain import ChainView
from app.console.silence import Silence
from app.console.tail import render


@pytest.fixture
def silence() -> Silence:
    return Silence(["NIFTY", "SENSEX"], now_s=100.0)


def test_a_book_is_silent_after_three_seconds_without_a_message(silence: Silence) -> None:
    silence.hear("NIFTY", now_s=101.0)
    assert silence.silent(now_s=103.9) == {"SENSEX": pytest.approx(3.9)}
    assert silence.silent(now_s=104.0) == {
        "NIFTY": pytest.approx(3.0),
        "SENSEX": pytest.approx(4.0),
    }


def test_a_message_ends_a_silence(silence: Silence) -> None:
    silence.hear("NIFTY", now_s=110.0)
    assert "NIFTY" not in silence.silent(now_s=112.9)


def test_a_silence_is_news_once_in_three_seconds(silence: Silence) -> None:
    told = [bool(silence.news(now_s=100.0 + tenths / 10)) for tenths in range(100)]
    assert [at for at, is_news in enumerate(told) if is_news] == [30, 60, 90]


def test_a_second_silence_is_news_again(silence: Silence) -> None:
    silence.news(now_s=106.0)
    silence.hear("NIFTY", now_s=107.0)
    assert "NIFTY" in silence.news(now_s=110.0)


def test_whether_anything_came_at_all_is_known(silence: Silence) -> None:
    assert not silence.has_heard
    silence.hear("NIFTY", now_s=101.0)
    assert silence.has_heard


def test_the_table_says_who_is_silent_and_for_how_long() -> None:
    console = Console(width=160)
    views = {book: ChainView(book) for book in ("NIFTY", "SENSEX")}
    with console.capture() as captured:
        console.print(render(views, width=160, silent_s={"SENSEX": 4.2}))
    text = captured.get()
    assert "SENSEX: publisher silent for 4 s" in text
    assert "NIFTY: publisher" not in text
