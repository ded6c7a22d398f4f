"""Faults of the order side: what is armed, for whom, how often and how long.

A fault is armed by the panel and taken by the step it breaks: the answer to a request, the order
book, or the order updates. Pure apart from its own state; docs/simulator.md explains each one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ticker_service.constants import NS_PER_MS, NS_PER_S
from ticker_service.simulator.envelope import KiteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.runtime.clock import Clock

COUNT_MAX: Final = 1_000_000
SECONDS_MAX: Final = 86_400.0
DELAY_MS_MAX: Final = 3_600_000
URL_CHARACTERS_MAX: Final = 500


class OrderFaultKind(StrEnum):
    """What can be broken about orders."""

    ACCEPT_THEN_TIMEOUT = "accept_then_timeout"
    ACCEPT_THEN_5XX = "accept_then_5xx"
    REJECT_5XX_BEFORE_ACCEPT = "reject_5xx_before_accept"
    ACCEPT_THEN_400_TIMEOUT = "accept_then_400_timeout"
    ACCEPT_THEN_RESET = "accept_then_reset"
    GARBAGE_200 = "garbage_200"
    DRIBBLE = "dribble"
    REDIRECT_307 = "redirect_307"
    HTTP_429 = "http_429"
    REFUSE_4XX = "refuse_4xx"
    REJECT_AT_EXCHANGE = "reject_at_exchange"
    SLOW_STATES = "slow_states"
    LATE_IN_BOOK = "late_in_book"
    PARTIAL_FILLS = "partial_fills"
    FILL_AFTER_CANCEL = "fill_after_cancel"
    NULL_TAGS = "null_tags"
    TRUNCATED_BOOK = "truncated_book"
    STALE_BOOK = "stale_book"
    DUPLICATE_UPDATES = "duplicate_updates"
    SHUFFLE_UPDATES = "shuffle_updates"
    DROP_UPDATES = "drop_updates"
    LATE_UPDATES = "late_updates"
    LATE_REQUEST = "late_request"
    OMIT_SLICE = "omit_slice"
    REFUSE_SLICE = "refuse_slice"


class Method(StrEnum):
    """What a request to the order routes is for."""

    PLACE = "place"
    MODIFY = "modify"
    CANCEL = "cancel"
    READ = "read"


Kind = OrderFaultKind
ANSWER_KINDS: Final = frozenset(
    {
        Kind.ACCEPT_THEN_TIMEOUT,
        Kind.ACCEPT_THEN_5XX,
        Kind.REJECT_5XX_BEFORE_ACCEPT,
        Kind.ACCEPT_THEN_400_TIMEOUT,
        Kind.ACCEPT_THEN_RESET,
        Kind.GARBAGE_200,
        Kind.DRIBBLE,
        Kind.REDIRECT_307,
        Kind.HTTP_429,
        Kind.REFUSE_4XX,
    }
)
PLACE_KINDS: Final = frozenset(
    {
        Kind.REJECT_AT_EXCHANGE,
        Kind.SLOW_STATES,
        Kind.LATE_IN_BOOK,
        Kind.PARTIAL_FILLS,
        Kind.FILL_AFTER_CANCEL,
    }
)
BOOK_KINDS: Final = frozenset({Kind.NULL_TAGS, Kind.TRUNCATED_BOOK, Kind.STALE_BOOK})
REQUEST_KINDS: Final = frozenset({Kind.LATE_REQUEST})
SLICE_KINDS: Final = frozenset({Kind.OMIT_SLICE, Kind.REFUSE_SLICE})

_COMMON: Final = frozenset({"fault", "user_id", "count", "seconds"})
_FIELDS: Final[Mapping[OrderFaultKind, frozenset[str]]] = {
    Kind.ACCEPT_THEN_TIMEOUT: frozenset({"answer_after_s"}),
    Kind.ACCEPT_THEN_5XX: frozenset({"status_code", "body"}),
    Kind.REJECT_5XX_BEFORE_ACCEPT: frozenset({"status_code", "body"}),
    Kind.ACCEPT_THEN_400_TIMEOUT: frozenset({"delay_ms"}),
    Kind.GARBAGE_200: frozenset({"body", "accept"}),
    Kind.DRIBBLE: frozenset({"interval_ms"}),
    Kind.REDIRECT_307: frozenset({"location", "accept"}),
    Kind.REFUSE_4XX: frozenset({"status_code", "error_type", "message"}),
    Kind.REJECT_AT_EXCHANGE: frozenset({"message"}),
    Kind.SLOW_STATES: frozenset({"delay_ms"}),
    Kind.LATE_IN_BOOK: frozenset({"delay_ms"}),
    Kind.PARTIAL_FILLS: frozenset({"part"}),
    Kind.FILL_AFTER_CANCEL: frozenset({"delay_ms"}),
    Kind.TRUNCATED_BOOK: frozenset({"keep"}),
    Kind.LATE_UPDATES: frozenset({"delay_ms"}),
    Kind.LATE_REQUEST: frozenset({"delay_ms"}),
    Kind.SHUFFLE_UPDATES: frozenset({"group"}),
}
STATUS_CODES: Final = (500, 502, 503, 504)
REFUSAL_CODES: Final = (400, 401, 403, 404, 405, 410, 428, 429)
ERROR_TYPES: Final = (
    "InputException",
    "TokenException",
    "PermissionException",
    "UserException",
    "TwoFAException",
    "OrderException",
    "MarginException",
    "HoldingException",
    "NetworkException",
    "DataException",
    "GeneralException",
)
BODIES: Final[Mapping[OrderFaultKind, tuple[str, ...]]] = {
    Kind.ACCEPT_THEN_5XX: ("json", "html"),
    Kind.REJECT_5XX_BEFORE_ACCEPT: ("json", "html"),
    Kind.GARBAGE_200: ("garbage", "empty", "html", "no_order_id"),
}
DELAY_MS_DEFAULT: Final = 8_000
INTERVAL_MS_DEFAULT: Final = 500
GROUP_DEFAULT: Final = 3


@dataclass(slots=True, kw_only=True)
class OrderFault:
    """One armed fault; ``count_left`` goes down with every use.

    ``lifted`` is set when it is, so that answers held back by it are let go.
    """

    number: int
    kind: OrderFaultKind
    user_id: str | None
    method: Method | None
    count_left: int | None
    until_ns: int | None
    lifted: asyncio.Event
    status_code: int
    error_type: str
    body: str
    accept: bool
    location: str
    message: str
    delay_ms: int
    interval_ms: int
    answer_after_s: float | None
    keep: int
    group: int
    part: int

    def describe(self, now_ns: int) -> dict[str, object]:
        """Return what the panel lists."""
        left_s = None if self.until_ns is None else (self.until_ns - now_ns) / NS_PER_S
        return {
            "fault": self.kind.value,
            "number": self.number,
            "user_id": self.user_id,
            "method": self.method.value if self.method else None,
            "count_left": self.count_left,
            "seconds_left": left_s,
        }

    @property
    def delay_ns(self) -> int:
        """How late the order or the row appears."""
        return self.delay_ms * NS_PER_MS


class OrderFaults:
    """The armed faults, oldest first; the oldest that fits is used."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._armed: list[OrderFault] = []
        self._numbered = 0
        # Answers that are being withheld wait for their fault to be lifted, even once used up.
        self._held: set[asyncio.Event] = set()

    def arm(self, fields: Mapping[str, object], user_id: str | None) -> OrderFault:
        """Arm a fault from the panel's fields.

        Raises:
            KiteError: A field is unknown, missing or wrong.
        """
        kind = OrderFaultKind(str(fields["fault"]))
        allowed = _COMMON | _FIELDS.get(kind, frozenset())
        if kind in ANSWER_KINDS | REQUEST_KINDS:
            allowed |= {"method"}
        unknown = sorted(fields.keys() - allowed)
        if unknown:
            raise KiteError.input(f"Fault {kind} does not take: {', '.join(unknown)}.")
        seconds = _number(fields, "seconds", SECONDS_MAX)
        until_ns = None
        if seconds is not None:
            until_ns = self._clock.monotonic_ns() + int(seconds * NS_PER_S)
        self._numbered += 1
        lifted = asyncio.Event()
        fault = OrderFault(
            number=self._numbered,
            kind=kind,
            user_id=user_id,
            method=_method(fields),
            count_left=_whole(fields, "count", 1, COUNT_MAX),
            until_ns=until_ns,
            lifted=lifted,
            status_code=_status_code(fields, kind),
            error_type=_error_type(fields),
            body=_body(fields, kind),
            accept=_truth(fields, "accept"),
            location=_text(fields, "location"),
            message=_text(fields, "message"),
            delay_ms=_or(_whole(fields, "delay_ms", 0, DELAY_MS_MAX), DELAY_MS_DEFAULT),
            interval_ms=_or(_whole(fields, "interval_ms", 1, DELAY_MS_MAX), INTERVAL_MS_DEFAULT),
            answer_after_s=_number(fields, "answer_after_s", SECONDS_MAX),
            keep=_or(_whole(fields, "keep", 0, COUNT_MAX), 0),
            part=_or(_whole(fields, "part", 1, COUNT_MAX), 1),
            group=_or(_whole(fields, "group", 2, 1_000), GROUP_DEFAULT),
        )
        self._armed.append(fault)
        self._held.add(lifted)
        return fault

    def find(
        self, kinds: frozenset[OrderFaultKind], user_id: str, method: Method | None = None
    ) -> OrderFault | None:
        """Return the oldest armed fault that strikes this, or None; ``use`` counts it."""
        self._drop_ended()
        for fault in self._armed:
            if fault.kind in kinds and _strikes(fault, user_id, method):
                return fault
        return None

    def take(self, kinds: frozenset[OrderFaultKind], user_id: str) -> OrderFault | None:
        """Return the oldest armed fault that strikes this, and count the use; None if none does."""
        fault = self.find(kinds, user_id)
        if fault is not None:
            use(fault)
        return fault

    def active(self) -> list[dict[str, object]]:
        """Return what is armed, for the panel."""
        self._drop_ended()
        now_ns = self._clock.monotonic_ns()
        return [fault.describe(now_ns) for fault in self._armed]

    def lift_all(self) -> int:
        """Lift every fault, let go what they hold back, and return how many there were."""
        self._drop_ended()
        count = len(self._armed)
        self._armed.clear()
        for lifted in self._held:
            lifted.set()
        self._held.clear()
        return count

    def _drop_ended(self) -> None:
        now_ns = self._clock.monotonic_ns()
        self._armed = [
            fault
            for fault in self._armed
            if fault.count_left != 0 and (fault.until_ns is None or now_ns < fault.until_ns)
        ]


def use(fault: OrderFault) -> None:
    """Count one use."""
    if fault.count_left is not None:
        fault.count_left -= 1


def _strikes(fault: OrderFault, user_id: str, method: Method | None) -> bool:
    if fault.user_id not in {None, user_id}:
        return False
    if fault.method is None:
        # Unless told otherwise, answers break only where something was to change.
        return fault.kind not in ANSWER_KINDS or method is not Method.READ
    return method is fault.method


def _method(fields: Mapping[str, object]) -> Method | None:
    value = fields.get("method")
    if value is None:
        return None
    try:
        return Method(str(value))
    except ValueError:
        raise KiteError.input(f"`method` must be one of: {', '.join(Method)}.") from None


def _number(fields: Mapping[str, object], name: str, most: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise KiteError.input(f"`{name}` must be a number above 0, at most {most:g}.")
    return float(value)


def _whole(fields: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise KiteError.input(f"`{name}` must be a whole number from {least} to {most}.")
    return value


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > URL_CHARACTERS_MAX or not value.isprintable():
        raise KiteError.input(f"`{name}` must be a text of at most {URL_CHARACTERS_MAX}.")
    return value


def _truth(fields: Mapping[str, object], name: str) -> bool:
    value = fields.get(name, True)
    if not isinstance(value, bool):
        raise KiteError.input(f"`{name}` must be true or false.")
    return value


def _status_code(fields: Mapping[str, object], kind: OrderFaultKind) -> int:
    default = {Kind.REJECT_5XX_BEFORE_ACCEPT: 503, Kind.REFUSE_4XX: 400}.get(kind, 502)
    choices = REFUSAL_CODES if kind is Kind.REFUSE_4XX else STATUS_CODES
    value = fields.get("status_code", default)
    if isinstance(value, bool) or not isinstance(value, int) or value not in choices:
        raise KiteError.input(f"`status_code` must be one of: {choices}.")
    return value


def _error_type(fields: Mapping[str, object]) -> str:
    value = fields.get("error_type", ERROR_TYPES[0])
    if value not in ERROR_TYPES:
        raise KiteError.input(f"`error_type` must be one of: {', '.join(ERROR_TYPES)}.")
    return str(value)


def _body(fields: Mapping[str, object], kind: OrderFaultKind) -> str:
    choices = BODIES.get(kind, ("",))
    value = fields.get("body", choices[0])
    if value not in choices:
        raise KiteError.input(f"`body` must be one of: {', '.join(choices)}.")
    return str(value)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
