"""What a recording says of its run: everything that decides the bytes beside the frames. Pure.

The settings without addresses and credentials, the universe with the book of every instrument, and
the run's epoch. A setting this version does not know is refused: without it the replay would
publish something else and call it the same.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin, get_type_hints

import numpy as np
import orjson

from ticker_service.config import EngineConfig, KiteConfig
from ticker_service.domain import universe as universes
from ticker_service.domain.instrument import InstrumentTable
from ticker_service.errors import CatalogError, ConfigurationError, RecordingError

if TYPE_CHECKING:
    from ticker_service.domain.universe import Universe

FORMAT: Final = 1
_NOT_RECORDED: Final = frozenset({"kite"})
"""Where Kite is and who we are there: of no use to a replay, and secret. So are the settings that
belong to no group, and whatever is kept out of ``repr``."""
_DTYPES: Final = {
    "instrument_token": "u4",
    "expiry": "datetime64[D]",
    "strike": "f8",
    "price_step": "f8",
    "lot_size": "i8",
}
"""Columns of the instruments that are not texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the first block of a recording holds.

    Attributes:
        software: What wrote it; the same bytes are promised by the same version only.
        epoch: The run's number, as subscribers saw it.
        part: Counts the files of one run from 0; those after the first begin in mid-run.
        trading_day: The date in India all its steps are of.
        config: The run's settings; addresses and credentials are not in it.
        universe: What the run could subscribe.
    """

    software: str
    epoch: int
    part: int
    trading_day: str
    config: EngineConfig
    universe: Universe


def software() -> str:
    """Return what this is, as recordings name their writer."""
    return f"ticker-service {importlib.metadata.version('ticker-service')}"


def encode(header: Header) -> bytes:
    """Return a header as JSON."""
    settings = {name: _plain(getattr(header.config, name)) for name in _groups()}
    chosen = header.universe
    table = chosen.instruments
    columns: dict[str, object] = {}
    for each in dataclasses.fields(InstrumentTable):
        column = getattr(table, each.name)
        if each.name == "expiry":
            columns["expiry"] = [None if day is None else str(day) for day in column.tolist()]
        else:
            columns[each.name] = column.tolist()
    return orjson.dumps(
        {
            "format": FORMAT,
            "software": header.software,
            "epoch": header.epoch,
            "part": header.part,
            "trading_day": header.trading_day,
            "settings": settings,
            "instruments": columns,
            "books": [chosen.books[book] for book in chosen.book.tolist()],
            "is_named": chosen.is_named.tolist(),
        },
    )


def decode(raw: bytes, name: str) -> Header:
    """Read a header.

    Args:
        raw: What :func:`encode` returned.
        name: The file, for messages.

    Raises:
        RecordingError: It is of a later version, or contradicts itself.
    """
    try:
        facts = orjson.loads(raw)
        if facts["format"] != FORMAT:
            raise RecordingError(
                f"Condition failed: {name}: format={facts['format']!r}, this version reads {FORMAT}"
            )
        return Header(
            software=str(facts["software"]),
            epoch=int(facts["epoch"]),
            part=int(facts["part"]),
            trading_day=str(facts["trading_day"]),
            config=_config(facts["settings"]),
            universe=_universe(facts),
        )
    except (KeyError, TypeError, ValueError, CatalogError, ConfigurationError) as error:
        raise RecordingError(f"Condition failed: {name}: header: {error!r}") from error


def _universe(facts: dict[str, Any]) -> Universe:
    table = InstrumentTable(
        **{
            each.name: _column(each.name, facts["instruments"][each.name])
            for each in dataclasses.fields(InstrumentTable)
        }
    )
    return universes.rebuild(
        table,
        book_names=_column("book", facts["books"]),
        is_named=np.array(facts["is_named"], np.bool_),
    )


def _column(name: str, values: list[Any]) -> Any:  # noqa: ANN401 - the dtype goes by the name
    if name in _DTYPES:
        return np.array(values, _DTYPES[name])
    texts = np.empty(len(values), object)
    texts[:] = values
    return texts


def _groups() -> dict[str, Any]:
    """Return the groups of settings that decide the output, by name."""
    return {
        name: hint
        for name, hint in get_type_hints(EngineConfig).items()
        if dataclasses.is_dataclass(hint) and name not in _NOT_RECORDED
    }


def _plain(group: Any) -> dict[str, object]:  # noqa: ANN401 - any group of settings
    return {each.name: getattr(group, each.name) for each in dataclasses.fields(group) if each.repr}


def _config(settings: dict[str, Any]) -> EngineConfig:
    nowhere = KiteConfig(rest_root="", ws_root="", api_key="", access_token="")
    hints = _groups()
    _refuse_unknown(settings, hints.keys(), "settings")
    groups = {name: _restored(hints[name], value, name) for name, value in settings.items()}
    return EngineConfig(kite=nowhere, redis_url="", **groups)


def _restored(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - whatever the field is
    """Return what was a settings field before JSON: nested settings, tuples and enumerations."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        _refuse_unknown(value, hints.keys(), where)
        parts = {name: _restored(hints[name], v, f"{where}.{name}") for name, v in value.items()}
        return kind(**parts)  # type: ignore[operator]  # a class, as the hint of a field is
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        pairs = zip(kinds, value, strict=True)
        return tuple(_restored(each, v, where) for each, v in pairs)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"{where}={value!r} is no {kind.__name__}")
    return value


def _refuse_unknown(found: dict[str, Any], known: Any, where: str) -> None:  # noqa: ANN401
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise ValueError(f"{where}: recorded with {unknown}, which this version does not know")
