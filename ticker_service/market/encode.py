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
_BETWEEN: Final = b"\xff"
"""No UTF-8 has this byte, and no code."""

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

    def encode_parts(
        self,
        headers: Sequence[Mapping[str, object]],
        values: Sequence[NDArray[Any]],
        parts: Sequence[slice],
    ) -> Sequence[Payload]:
        """Return a message for each part of the rows: together they cost less than one by one.

        Args:
            headers: One per part.
            values: One array per column, as for ``encode``.
            parts: Consecutive rows each.
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
        return self.encode_parts([header], values, [slice(0, len(values[0]))])[0]

    def encode_parts(
        self,
        headers: Sequence[Mapping[str, object]],
        values: Sequence[NDArray[Any]],
        parts: Sequence[slice],
    ) -> list[bytes]:
        """Return the messages as JSON objects; what is not given to orjson is made for all."""
        marked = [values[place] for place in self._marked]
        texts: list[tuple[int, Sequence[object]]] = [
            *zip(self._marked, _marked_texts(marked, parts), strict=True),
            *((place, _words(values[place], words, parts)) for place, words in self._words),
        ]
        messages = []
        for number, (header, part) in enumerate(zip(headers, parts, strict=True)):
            cells: list[object] = [column[part] for column in values]
            for place, of_parts in texts:
                cells[place] = of_parts[number]
            for place, of in self._others:
                cells[place] = of(values[place][part])
            for place in self._shown:
                cells[place] = orjson.Fragment(dumps(values[place][part]))
            for place, original in self._twins:
                cells[place] = cells[original]
            columns = dict(zip(self._names, cells, strict=True))
            messages.append(dumps({**header, "columns": columns}))
        return messages


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


def dumps(message: Mapping[str, object] | NDArray[Any] | list[NDArray[Any]] | str) -> bytes:
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


def _marked_texts(
    columns: Sequence[NDArray[np.int64]], parts: Sequence[slice]
) -> list[list[object]]:
    """Return whole numbers for JSON, ``null`` for the mark ``NOT_CARRIED``, without objects.

    An index has no quantities, so hardly any of these columns is without a hole, and lists of
    objects would take longer than all else. Nothing here is negative but the mark, so a sign is
    found nowhere else in the text; should anything be, there is the slow way.

    Returns:
        One list per column, with its text for each part.
    """
    if not columns:
        return []
    block = np.concatenate(columns).reshape(len(columns), -1)
    least = block.min(initial=0)
    if least < NOT_CARRIED:
        return [[whole_numbers(c[part], missing=NOT_CARRIED) for part in parts] for c in columns]
    if least == NOT_CARRIED:
        np.putmask(block, block < 0, _STAND_IN)
    text = dumps([np.ascontiguousarray(block[:, part]) for part in parts])
    if least == NOT_CARRIED:
        text = _with_nulls(text)
    # "[[[1,2],[3,4]],[[5],[6]]]": each part has its columns, and a bracket more than they have.
    texts = text.split(b"]")
    of_part = len(columns) + 1
    return [
        [
            # Before its own bracket a column has a comma or that of its part; the first has both.
            orjson.Fragment(texts[first + column][1 if column else 2 :] + b"]")
            for first in range(0, of_part * len(parts), of_part)
        ]
        for column in range(len(columns))
    ]


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


def _words(
    codes: NDArray[np.uint8], texts: Sequence[bytes], parts: Sequence[slice]
) -> list[orjson.Fragment]:
    """Return words for JSON, ``null`` for every code that has none, for each part.

    A code is a byte that no word contains, so that a word is put in its place by ``replace``; so
    is the byte between two parts.
    """
    capped = np.minimum(codes, np.uint8(len(texts) - 1))
    text = capped.tobytes()
    if text and text.count(text[:1]) == len(text):  # most columns have one word in all rows
        word = texts[text[0]]
        words = [word * (part.stop - part.start) for part in parts]
    else:
        text = _BETWEEN.join([capped[part].tobytes() for part in parts])
        for code, word in enumerate(texts):
            text = text.replace(bytes((code,)), word)
        words = text.split(_BETWEEN)
    return [orjson.Fragment(b"[" + part[:-1] + b"]") for part in words]


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
