"""A step of a recording as the call of the path's method it was; one line per method.

Part of the replay. What no recorder has written is refused with the step and the argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np

from ticker_service.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from numpy.typing import NDArray

    from ticker_service.market.pipeline import TickPath
    from ticker_service.market.tape import Step


class Arguments:
    """A step's arguments as the path's methods take them."""

    def __init__(self, step: Step, path: TickPath) -> None:
        self._step = step
        self._rows = len(path.universe)
        self._books = len(path.universe.books)

    def integer(self, name: str) -> int:
        """Return a whole number, such as an instant."""
        value = self._step.arguments.get(name)
        return value if isinstance(value, int) else self._refuse(name, value)

    def text(self, name: str) -> str:
        """Return a word or a sentence."""
        value = self._step.arguments.get(name)
        return value if isinstance(value, str) else self._refuse(name, value)

    def rows(self) -> NDArray[np.intp]:
        """Return rows of the universe."""
        return np.array(self._numbers("rows", self._rows), np.intp)

    def books(self) -> list[int]:
        """Return numbers of books."""
        return self._numbers("books", self._books)

    def option_books(self, path: TickPath) -> list[int]:
        """Return numbers of books that have options."""
        books = self.books()
        return books if set(books) <= set(path.smiles.books) else self._refuse("books", books)

    def feed_of_book(self) -> dict[int, str]:
        """Return the feed's state by number of the book."""
        states = self._step.arguments.get("feed_of_book")
        if not isinstance(states, list) or not all(map(_is_pair, states)):
            self._refuse("feed_of_book", states)
        feed_of_book = dict(states)
        if feed_of_book.keys() != set(range(self._books)):
            self._refuse("feed_of_book", states)
        return feed_of_book

    def _numbers(self, name: str, limit: int) -> list[int]:
        values = self._step.arguments.get(name)
        if not isinstance(values, list):
            self._refuse(name, values)
        if not all(isinstance(value, int) and 0 <= value < limit for value in values):
            self._refuse(name, values)
        return values

    def _refuse(self, name: str, value: object) -> NoReturn:
        raise RecordingError(
            f"Condition failed: step={self._step.name} at_ns={self._step.at_ns}: "
            f"{name}={str(value)[:100]}"
        )


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == len(("book", "state"))
        and isinstance(value[0], int)
        and isinstance(value[1], str)
    )


async def call(path: TickPath, step: Step) -> None:
    """Call the method a step names.

    Raises:
        RecordingError: This version has no such method, or it takes other arguments.
    """
    method = _CALLS.get(step.name)
    if method is None:
        raise RecordingError(f"Condition failed: step={step.name!r} is of a later version")
    await method(path, Arguments(step, path))


async def _forget(path: TickPath, known: Arguments) -> None:
    path.forget(known.rows())


async def _subscribed(path: TickPath, known: Arguments) -> None:
    path.subscribed(known.rows(), since_ns=known.integer("since_ns"))


async def _audible(path: TickPath, known: Arguments) -> None:
    path.audible(known.rows())


async def _watch(path: TickPath, known: Arguments) -> None:
    path.watch(lasted_ns=known.integer("lasted_ns"))


async def _doubt(path: TickPath, known: Arguments) -> None:
    path.doubt(known.rows())


_CALLS: Final[dict[str, Callable[[TickPath, Arguments], Awaitable[None]]]] = {
    "reprice": lambda path, _: path.reprice(),
    "smile": lambda path, known: path.smile(known.option_books(path)),
    "heartbeat": lambda path, known: path.heartbeat(known.feed_of_book(), known.books()),
    "bars": lambda path, _: path.bars(),
    "snapshot": lambda path, _: path.snapshot(),
    "instruments": lambda path, _: path.instruments(),
    "forget": _forget,
    "subscribed": _subscribed,
    "audible": _audible,
    "watch": _watch,
    "doubt": _doubt,
    "announce_status": lambda path, known: path.announce_status(
        known.books(), known.text("state"), known.text("reason")
    ),
    "announce_gap": lambda path, known: path.announce_gap(
        known.rows(),
        from_ns=known.integer("from_ns"),
        to_ns=known.integer("to_ns"),
        reason=known.text("reason"),
    ),
}
