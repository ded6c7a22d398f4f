"""The limits of the risk gate: one table of what can be limited, and who is limited how. Pure.

A limit is set for everybody, for a group of accounts or for one account; the narrowest word counts,
limit by limit. ``"off"`` lets a narrower one undo a wider. The whole table has a version, the
digest of what it says, and every decision names the version it was made by. Source: reliability.md
§6.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from ticker_service.errors import Fault, LimitsRefused

OFF: Final = "off"
VERSION_CHARACTERS: Final = 12
NAMES_MAX: Final = 1_000
_SYMBOL: Final = re.compile(
    r"[A-Z]{2,8}:[A-Z0-9][A-Z0-9&._%*$ -]{0,63}|[A-Z0-9][A-Z0-9&._ -]{0,63}"
)
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LimitKind(StrEnum):
    """What a limit's value is."""

    INR = "rupees"
    COUNT = "whole number"
    PERCENT = "percent"
    SECONDS = "seconds"
    FLAG = "true or false"
    NAMES = "list of names"
    UNITS = "table of whole numbers"


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskLimits:
    """What limits one account; a field for each row of ``RISK_LIMITS``, None for off."""

    absurd_value_inr: Decimal | None = Decimal(1_000_000_000)
    order_value_inr_max: Decimal | None = None
    order_quantity_max: int | None = None
    order_lots_max: int | None = None
    circuit_limits: bool = False
    price_collar_percent: Decimal | None = None
    duplicate_window_s: Decimal | None = None
    open_value_inr_max: Decimal | None = None
    position_quantity_max: int | None = None
    underlying_quantity_max: int | None = None
    orders_per_minute_max: int | None = None
    loss_block_new_inr: Decimal | None = None
    loss_reduce_only_inr: Decimal | None = None
    loss_halt_inr: Decimal | None = None
    drawdown_block_new_inr: Decimal | None = None
    drawdown_reduce_only_inr: Decimal | None = None
    drawdown_halt_inr: Decimal | None = None
    halt_cancels: bool = True
    sell_only_holdings: bool = False
    trading_hours: bool = False
    broker_margin: bool = False
    mis_last_minutes: int | None = None
    banned_symbols: tuple[str, ...] = ()
    reference_age_s_max: Decimal = Decimal(3)
    positions_age_s_max: Decimal = Decimal(10)
    contract_units: Mapping[str, int] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """Return the limits as people and JSON have them, decimals as their digits."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}


DEFAULTS: Final = RiskLimits()


class LimitRow(NamedTuple):
    """One limit: its name, what its value is, from where to where, what it does."""

    name: str
    kind: LimitKind
    least: int
    most: int
    told: str

    @property
    def default(self) -> object:
        """What holds unless somebody sets it."""
        return getattr(DEFAULTS, self.name)


_K = LimitKind
_RICH: Final = 10**13

RISK_LIMITS: Final = (
    LimitRow("absurd_value_inr", _K.INR, 1, _RICH, "no order by its own price"),
    LimitRow("order_value_inr_max", _K.INR, 1, _RICH, "price times quantity of one order"),
    LimitRow("order_quantity_max", _K.COUNT, 1, 10_000_000, "quantity of one order"),
    LimitRow("order_lots_max", _K.COUNT, 1, 1_000_000, "lots of one order in derivatives"),
    LimitRow("circuit_limits", _K.FLAG, 0, 1, "prices beyond the day's circuit are denied"),
    LimitRow("price_collar_percent", _K.PERCENT, 0, 100, "a price so far from the last one"),
    LimitRow("duplicate_window_s", _K.SECONDS, 0, 3_600, "the same order under another key"),
    LimitRow("open_value_inr_max", _K.INR, 1, _RICH, "value of all open orders together"),
    LimitRow("position_quantity_max", _K.COUNT, 1, 10_000_000, "net position in a symbol"),
    LimitRow("underlying_quantity_max", _K.COUNT, 1, 10_000_000, "positions in an underlying"),
    LimitRow("orders_per_minute_max", _K.COUNT, 1, 10_000, "new orders of one caller"),
    LimitRow("loss_block_new_inr", _K.INR, 1, _RICH, "day's loss that blocks new positions"),
    LimitRow("loss_reduce_only_inr", _K.INR, 1, _RICH, "... that lets reductions through"),
    LimitRow("loss_halt_inr", _K.INR, 1, _RICH, "... that lets nothing but cancels through"),
    LimitRow("drawdown_block_new_inr", _K.INR, 1, _RICH, "fall from the day's best, likewise"),
    LimitRow("drawdown_reduce_only_inr", _K.INR, 1, _RICH, "..."),
    LimitRow("drawdown_halt_inr", _K.INR, 1, _RICH, "..."),
    LimitRow("halt_cancels", _K.FLAG, 0, 1, "a halt by a loss cancels what is open, stops too"),
    LimitRow("sell_only_holdings", _K.FLAG, 0, 1, "CNC sells above what is held are denied"),
    LimitRow("trading_hours", _K.FLAG, 0, 1, "orders while the market rests are denied"),
    LimitRow("broker_margin", _K.FLAG, 0, 1, "orders above the broker's free margin are denied"),
    LimitRow("mis_last_minutes", _K.COUNT, 1, 600, "no new MIS so long before the close"),
    LimitRow("banned_symbols", _K.NAMES, 0, NAMES_MAX, "EXCHANGE:SYMBOL, or an underlying"),
    LimitRow("reference_age_s_max", _K.SECONDS, 0, 60, "how old a last price may be"),
    LimitRow("positions_age_s_max", _K.SECONDS, 0, 300, "how old positions may be"),
    LimitRow("contract_units", _K.UNITS, 1, 10_000_000, "units of one lot, where Kite counts lots"),
)
"""Every limit there is, as people set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskTable:
    """Who is limited how, all of it; ``said`` is what was set, as it is journalled.

    ``version`` is the digest of that: the same words are the same version on every machine.
    """

    everywhere: Mapping[str, object] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    accounts: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    version: str = ""
    said: Mapping[str, object] = field(default_factory=dict)

    def of(self, account: str, group: str = "") -> RiskLimits:
        """Return the limits of an account: its own words over its group's over those for all."""
        narrower = self.groups.get(group, {}), self.accounts.get(account, {})
        merged = dict(self.everywhere)
        for words in narrower:
            merged |= words
        return RiskLimits(**merged)  # type: ignore[arg-type]  # each was read by its row

    def group_value_inr_max(self, group: str) -> Decimal | None:
        """Return what the open orders of a group's accounts may come to together, None for any."""
        most = self.groups.get(group, {}).get("open_value_inr_max")
        return most if isinstance(most, Decimal) else None


DENIALS_KEPT: Final = 10_000
"""So many denials of an account the journal keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskDenial:
    """What was denied and by which numbers; ``at_ns`` is wall time."""

    account: str
    at_ns: int
    principal: str
    client_order_id: str
    kind: str
    code: str
    field: str
    value: str
    limit: str
    rule: str
    version: str
    numbers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLimits:
    """What limited from an instant on, as it was set; ``at_ns`` is wall time."""

    version: str
    said: Mapping[str, object]
    at_ns: int


class LatchLevel(StrEnum):
    """How much a loss leaves an account to do, mildest first."""

    BLOCK_NEW = "BLOCK_NEW"
    """No new order that does not strictly reduce a position; changes of open ones go."""
    REDUCE_ONLY = "REDUCE_ONLY"
    """Nothing that does not strictly reduce a position."""
    HALT = "HALT"
    """Nothing but cancels, and whatever is open is cancelled unless the limits say otherwise."""


def risk_table(said: Mapping[str, Any] | None = None) -> RiskTable:
    """Return the table that the setting ``risk`` says.

    Args:
        said: Limits by name; ``accounts`` and ``groups`` hold tables of the same, by name.

    Raises:
        LimitsRefused: A name is no limit's or a value not one of its kind; all are listed.
    """
    said = dict(said or {})
    faults: list[Fault] = []
    narrower = {}
    for where in ("accounts", "groups"):
        tables = said.pop(where, {})
        if not isinstance(tables, Mapping):
            faults.append(Fault(where, None, "must be tables of limits by name"))
            tables = {}
        faults += [
            Fault(f"{where}.{name}", None, "no name")
            for name in tables
            if not _ACCOUNT.fullmatch(name)
        ]
        narrower[where] = {
            name: _read(words, f"{where}.{name}.", faults) for name, words in tables.items()
        }
    everywhere = _read(said, "", faults)
    if faults:
        raise LimitsRefused(faults)
    kept = {
        **{name: _plain(value) for name, value in everywhere.items()},
        **{
            where: {
                name: {each: _plain(value) for each, value in words.items()}
                for name, words in tables.items()
            }
            for where, tables in narrower.items()
            if tables
        },
    }
    written = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return RiskTable(
        everywhere=everywhere,
        groups=narrower["groups"],
        accounts=narrower["accounts"],
        version=hashlib.sha256(written.encode()).hexdigest()[:VERSION_CHARACTERS],
        said=kept,
    )


def check_names(table: RiskTable, *, accounts: Collection[str], groups: Collection[str]) -> None:
    """Check that whoever has limits of his own is there: a slip of the pen would limit nobody.

    Raises:
        LimitsRefused: An account or group of the table is not declared; all are listed.
    """
    faults = [
        Fault(where, name, f"is not declared: {', '.join(sorted(declared)) or 'none'} may be named")
        for where, named, declared in (
            ("accounts", table.accounts, accounts),
            ("groups", table.groups, groups),
        )
        for name in named
        if name not in declared
    ]
    if faults:
        raise LimitsRefused(faults)


def _read(words: object, where: str, faults: list[Fault]) -> dict[str, object]:
    if not isinstance(words, Mapping):
        faults.append(Fault(where[:-1], None, "must be a table of limits"))
        return {}
    rows = {row.name: row for row in RISK_LIMITS}
    read = {}
    for name, value in words.items():
        row = rows.get(name)
        if row is None:
            rule = "is no limit; see `ticker-service risk limits`"
            faults.append(Fault(where + name, None, rule))
            continue
        try:
            read[name] = _value(row, value)
        except ValueError as error:
            faults.append(Fault(where + name, value, f"must be {error}"))
    return read


def _value(row: LimitRow, value: object) -> object:  # noqa: PLR0911 - a return for each kind
    """Return a value as the rules use it.

    Raises:
        ValueError: It is not one; the message says what it must be.
    """
    if value == OFF and row.kind is not _K.SECONDS:
        return {_K.FLAG: False, _K.NAMES: (), _K.UNITS: {}}.get(row.kind)
    if value == OFF and row.default is None:
        return None
    match row.kind, value:
        case _K.FLAG, bool():
            return value
        case _K.COUNT, int() if not isinstance(value, bool) and row.least <= value <= row.most:
            return value
        case ((_K.INR | _K.PERCENT | _K.SECONDS), int() | float() | str() | Decimal()):
            return _number(row, value)
        case _K.NAMES, list() | tuple() if len(value) <= row.most and all(
            isinstance(each, str) and _SYMBOL.fullmatch(each) for each in value
        ):
            return tuple(dict.fromkeys(value))
        case _K.UNITS, Mapping() if all(
            isinstance(each, int) and not isinstance(each, bool) and row.least <= each <= row.most
            for each in value.values()
        ):
            return dict(value)
    raise ValueError(_rule(row))


def _number(row: LimitRow, value: float | str | Decimal) -> Decimal:
    try:
        number = Decimal(str(value))  # the word of a bool is no number
    except ArithmeticError:
        raise ValueError(_rule(row)) from None
    # Finite before anything else: a signalling NaN raises where it is compared.
    if not number.is_finite() or not row.least <= number <= row.most or number == 0:
        raise ValueError(_rule(row))
    return number


def _rule(row: LimitRow) -> str:
    off = "" if row.kind is _K.SECONDS and row.default is not None else f', or "{OFF}"'
    match row.kind:
        case _K.FLAG:
            return "true or false"
        case _K.NAMES:
            return f"at most {row.most} names such as NSE:INFY or an underlying such as NIFTY{off}"
        case _K.UNITS:
            return f"whole numbers by name, such as {{CRUDEOIL = 100}}{off}"
        case _K.COUNT:
            return f"a whole number from {row.least} to {row.most}{off}"
        case _:
            return f"a number of {row.kind} above 0, {row.least} to {row.most}{off}"


def _plain(value: object) -> object:
    match value:
        case Decimal():
            return f"{value.normalize():f}"
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value
