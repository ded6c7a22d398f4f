"""What one socket has asked for, and the client's frames that change it.

Pure. Source: kite.md §1.2. Kite acknowledges nothing; the one negative answer is an error text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import orjson

from ticker_service.domain.tick import Mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.simulator.market import Changes

TOKENS_MAX: Final = 3_000
NOT_SUBSCRIBED: Final = np.uint8(0)
TOKEN_MAX: Final = (1 << 32) - 1
_MODES: Final = {mode.wire_name: mode for mode in Mode}
_ECHO_CHARACTERS_MAX: Final = 60


class BadRequestError(Exception):
    """A frame that the client is told about in an error text; the socket lives."""


class Subscription:
    """Modes by row, and the rows that have news to send.

    News is a flag per row, not a queue: a reader that falls behind gets the latest packet of each
    row once, and the memory it costs does not grow (policy CONFLATE).
    """

    def __init__(self, row_by_token: Mapping[int, int]) -> None:
        self._row_by_token = row_by_token
        self._mode = np.zeros(len(row_by_token), np.uint8)
        self._has_news = np.zeros(len(row_by_token), np.bool_)
        # Kite counts tokens it has no ticks for against the limit too.
        self._unlisted: set[int] = set()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of subscribed tokens."""
        return self._count + len(self._unlisted)

    def is_subscribed(self) -> NDArray[np.bool_]:
        """Return the mask of the rows that are subscribed."""
        mask: NDArray[np.bool_] = self._mode != NOT_SUBSCRIBED
        return mask

    def apply(self, frame: str | bytes) -> None:
        """Do what a client's frame asks.

        Raises:
            BadRequestError: All or part of it cannot be done; the rest has been.
        """
        action, value = _parsed(frame)
        if action == "subscribe":
            self._subscribe(_tokens(value), None)
        elif action == "unsubscribe":
            self._unsubscribe(_tokens(value))
        elif action == "mode":
            mode, tokens = _mode_and_tokens(value)
            self._subscribe(tokens, mode)
        else:
            raise BadRequestError(f"Unknown action: {_echo(action)}")

    def note(self, changes: Changes) -> bool:
        """Remember which subscribed rows have changed in their mode; return whether any has."""
        seen = changes.rows[self._mode[changes.rows] >= changes.least_mode]
        self._has_news[seen] = True
        return bool(len(seen))

    def take_news(self) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """Return the rows with news, ascending, and their modes, and forget the news."""
        rows = np.flatnonzero(self._has_news)
        self._has_news[rows] = False
        return rows, self._mode[rows]

    def _subscribe(self, tokens: list[int], mode: Mode | None) -> None:
        """Subscribe tokens; ``mode`` None keeps a subscribed token's mode and begins in quote."""
        refused = 0
        for token in tokens:
            row = self._row_by_token.get(token)
            known = token in self._unlisted if row is None else self._mode[row] != NOT_SUBSCRIBED
            if not known and len(self) >= TOKENS_MAX:
                refused += 1
            elif row is None:
                self._unlisted.add(token)
            else:
                self._count += not known
                if mode is not None or not known:
                    self._mode[row] = mode or Mode.QUOTE
                self._has_news[row] = True
        if refused:
            raise BadRequestError(
                f"Subscription limit of {TOKENS_MAX} instruments exceeded: {refused} ignored"
            )

    def _unsubscribe(self, tokens: list[int]) -> None:
        for token in tokens:
            self._unlisted.discard(token)
            row = self._row_by_token.get(token)
            if row is not None and self._mode[row] != NOT_SUBSCRIBED:
                self._mode[row] = NOT_SUBSCRIBED
                self._has_news[row] = False
                self._count -= 1


def _parsed(frame: str | bytes) -> tuple[object, object]:
    if isinstance(frame, bytes):
        raise BadRequestError("Unexpected binary message")
    try:
        request = orjson.loads(frame)
    except orjson.JSONDecodeError:
        raise BadRequestError(f"Invalid JSON: {_echo(frame)}") from None
    if not isinstance(request, dict):
        raise BadRequestError(f"Unexpected message: {_echo(request)}")
    return request.get("a"), request.get("v")


def _mode_and_tokens(value: object) -> tuple[Mode, list[int]]:
    match value:
        case [str(name), tokens] if name in _MODES:
            return _MODES[name], _tokens(tokens)
        case [name, _]:
            raise BadRequestError(f"Invalid mode: {_echo(name)}")
        case _:
            raise BadRequestError(f"Invalid mode request: {_echo(value)}")


def _tokens(value: object) -> list[int]:
    """Return the integers of a list; Kite gives strings no ticks and no error."""
    if not isinstance(value, list):
        raise BadRequestError(f"Invalid tokens: {_echo(value)}")
    return [each for each in value if type(each) is int and 0 <= each <= TOKEN_MAX]


def _echo(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _ECHO_CHARACTERS_MAX else text[:_ECHO_CHARACTERS_MAX] + "…"
