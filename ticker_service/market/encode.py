"""Turn a message into the bytes of its channel: JSON here, Arrow next door.

Path: feed -> decode -> validate -> batch -> price -> [publish].
Pure. A message is a header, which is the same in every encoding, and for some kinds columns.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import numpy as np
import orjson

from ticker_service.config import Encoding
from ticker_service.domain.tick import NOT_CARRIED
from ticker_service.errors import ConfigurationError, InvariantViolatedError
from ticker_service.market.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ticker_service.market.columns import Column
    from ticker_service.ports import Payload

WORD_CODES: Final = 256
"""A code is one byte."""
WORDS_MAX: Final = 32
"""Fewer words than this have codes that are no characters of a text."""
_NULL: Final = b"null"
_STAND_IN: Final = -999
_SIGN: Final = ord("-")

if len(str(_STAND_IN)) != len(_NULL):  # pragma: no cover - a constant was edited
    raise AssertionError(f"Invariant: {_STAND_IN} must be as long as {_NULL!r}")


class Encoder(Protocol):
    """One encoding with the names of its channel and of its snapshot key."""

    channel: ClassVar[str]
    snapshot_key: ClassVar[str]

    def encode(
        self, header: Mapping[str, object], values: Sequence[NDArray[Any]] | None = None
    ) -> Payload:
        """Return a message.

        Args:
            header: Everything but the columns: facts that JSON can hold.
            values: One array per column the encoder was made for, shape ``(n,)``; None for a kind
                of message that has no columns.
        """
        ...


class JsonEncoder:
    """Columns as arrays of JSON: any language reads it, at millions of rows a second."""

    channel: ClassVar[str] = "ticks"
    snapshot_key: ClassVar[str] = "snapshot"

    def __init__(self, columns: Sequence[Column]) -> None:
        self._names = [column.name for column in columns]
        places = {name: place for place, name in enumerate(self._names)}
        # A column that shows the values of another one is not encoded again.
        self._twins = [
            (place, places[column.same_as])
            for place, column in enumerate(columns)
            if column.same_as in places
        ]
        own = [(n, column) for n, column in enumerate(columns) if column.same_as not in places]
        shown = {original for _, original in self._twins}
        self._shown = [n for n, column in own if n in shown and column.kind is Kind.NUMBER]
        self._marked = [n for n, column in own if column.missing == NOT_CARRIED]
        self._words = [(n, _word_texts(c.words)) for n, c in own if c.kind is Kind.WORD]
        self._others = [(n, json_values(c)) for n, c in own if c.missing not in {None, NOT_CARRIED}]

    def encode(
        self, header: Mapping[str, object], values: Sequence[NDArray[Any]] | None = None
    ) -> bytes:
        """Return the message as one JSON object; NaN and infinities become ``null``."""
        if values is None:
            return dumps(header)
        cells: list[object] = list(values)
        marked = _marked_texts([values[place] for place in self._marked])
        for place, text in zip(self._marked, marked, strict=True):
            cells[place] = text
        for place, texts in self._words:
            cells[place] = _words(values[place], texts)
        for place, of in self._others:
            cells[place] = of(values[place])
        for place in self._shown:
            cells[place] = orjson.Fragment(dumps(values[place]))
        for place, original in self._twins:
            cells[place] = cells[original]
        columns = dict(zip(self._names, cells, strict=True))
        return dumps({**header, "columns": columns})


def encoders(wanted: Sequence[Encoding], columns: Sequence[Column]) -> list[Encoder]:
    """Return an encoder for each wanted encoding.

    Raises:
        ConfigurationError: Arrow is wanted and pyarrow is not installed.
    """
    made: list[Encoder] = []
    for encoding in wanted:
        match encoding:
            case Encoding.JSON:
                made.append(JsonEncoder(columns))
            case Encoding.ARROW:
                made.append(_arrow_encoder(columns))
    return made


def dumps(message: Mapping[str, object] | NDArray[Any] | str) -> bytes:
    """Return JSON; numpy arrays in it must be contiguous and native-endian."""
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)


def whole_numbers(
    values: NDArray[np.int64], *, missing: int
) -> NDArray[np.int64] | list[int | None]:
    """Return whole numbers for JSON, with ``null`` where a value is missing.

    A list only when something is missing: orjson writes a numpy column without making objects, but
    an integer column has no NaN, and a float column would change 65 into 65.0 from batch to batch.
    """
    is_missing = values == missing
    if not is_missing.any():
        return values
    listed: list[int | None] = values.tolist()
    for row in np.flatnonzero(is_missing).tolist():
        listed[row] = None
    return listed


def json_values(column: Column) -> Callable[[NDArray[Any]], NDArray[Any] | list[Any]]:
    """Return the function that makes a column's array what orjson takes."""
    if column.kind is Kind.WORD:
        names = np.full(WORD_CODES, None, dtype=object)
        names[: len(column.words)] = column.words
        return lambda codes: names[codes].tolist()
    missing = column.missing
    if missing is not None:
        return lambda values: whole_numbers(values, missing=missing)
    return lambda values: values


def _marked_texts(columns: Sequence[NDArray[np.int64]]) -> list[object]:
    """Return whole numbers for JSON, ``null`` for the mark ``NOT_CARRIED``, without objects.

    An index has no quantities, so hardly any of these columns is without a hole, and lists of
    objects would take longer than all else. Nothing here is negative but the mark, so a sign is
    found nowhere else in the text; should anything be, there is the slow way.
    """
    if not columns:
        return []
    block = np.stack(columns)
    least = block.min(initial=0)
    if least < NOT_CARRIED:
        return [whole_numbers(column, missing=NOT_CARRIED) for column in columns]
    if least == NOT_CARRIED:
        np.putmask(block, block < 0, _STAND_IN)
    text = dumps(block)
    if least == NOT_CARRIED:
        text = _with_nulls(text)
    # "[[1,2],[3,4]]" has a column before each of its brackets but the last, after one byte.
    return [orjson.Fragment(part[1:] + b"]") for part in text.split(b"]")[: len(columns)]]


def _with_nulls(text: bytes) -> bytes:
    """Write ``null`` over each negative number: all of them are ``_STAND_IN``, as long as that."""
    octets = bytearray(text)
    signs = np.flatnonzero(np.frombuffer(octets, np.uint8) == _SIGN)
    four_at = np.ndarray(len(octets) - len(_NULL) + 1, "V4", octets, strides=(1,))
    four_at[signs] = _NULL
    return bytes(octets)


def _word_texts(words: Sequence[str]) -> list[bytes]:
    """Return what each code is written as, with a comma; the last one is for all codes beyond."""
    if len(words) >= WORDS_MAX:
        raise InvariantViolatedError(f"Invariant: words={len(words)} limit={WORDS_MAX}")
    return [dumps(word) + b"," for word in words] + [_NULL + b","]


def _words(codes: NDArray[np.uint8], texts: Sequence[bytes]) -> orjson.Fragment:
    """Return words for JSON, ``null`` for every code that has none.

    A code is a byte that no word contains, so that a word is put in its place by ``replace``.
    """
    text = np.minimum(codes, np.uint8(len(texts) - 1)).tobytes()
    for code, word in enumerate(texts):
        text = text.replace(bytes((code,)), word)
    return orjson.Fragment(b"[" + text[:-1] + b"]")


def _arrow_encoder(columns: Sequence[Column]) -> Encoder:
    try:
        # pyarrow is optional and large: only who asks for it loads it.
        arrow = import_module("ticker_service.market.encode_arrow")
    except ImportError as error:
        raise ConfigurationError(
            "encodings: arrow needs pyarrow, which is not installed; "
            "install ticker-service[arrow], or ask for json only"
        ) from error
    made: Encoder = arrow.ArrowEncoder(columns)
    return made
