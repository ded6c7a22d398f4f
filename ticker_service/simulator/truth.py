"""The truth behind the quotes: forwards and volatilities by step, kept, served and read back.

``TruthHistory`` records on the exchange's side; ``Truth`` reads what ``GET /sim/truth`` answers and
says, for any option and instant, what the market really priced with. For checks only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ticker_service.constants import NS_PER_US
from ticker_service.simulator.smile import volatility_per_year

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.simulator.catalogue import Catalogue
    from ticker_service.simulator.underlyings import Underlyings

FORMULA: Final = "clip(level + slope*x + curvature*x*x, 0.03, 1.5), x = ln(strike / forward)"
SMILE_PARAMETERS: Final = ("level", "slope", "curvature")


class TruthHistory:
    """The latest steps, oldest overwritten first."""

    def __init__(self, catalogue: Catalogue, *, steps_max: int) -> None:
        curves = len(catalogue.curves)
        self._expiries = _expiries(catalogue)
        self._at_us = np.zeros(steps_max, np.int64)
        self._forward = np.zeros((steps_max, curves))
        self._smile = np.zeros((steps_max, len(SMILE_PARAMETERS), curves))
        self._recorded = 0

    def record(self, at_ns: int, underlyings: Underlyings) -> None:
        """Keep the state that came into force at ``at_ns``, ns since the Unix epoch."""
        slot = self._recorded % len(self._at_us)
        self._at_us[slot] = at_ns // NS_PER_US
        self._forward[slot] = underlyings.forward_inr
        self._smile[slot] = underlyings.smile
        self._recorded += 1

    def window(self, *, now_us: int, from_us: int | None, to_us: int | None) -> dict[str, object]:
        """Return the steps in force at any time within the window, as the endpoint's ``data``.

        Args:
            now_us: The present, µs since the Unix epoch.
            from_us: Start of the window; None for all that is kept.
            to_us: End of the window, inclusive; None or later than now for the present.
        """
        until_us = now_us if to_us is None else min(to_us, now_us)
        slots = self._slots(from_us, until_us)
        smile = self._smile[slots]
        return {
            "formula": FORMULA,
            "until_us": until_us,
            "expiries": self._expiries,
            "at_us": self._at_us[slots],
            "forward": self._forward[slots],
            **{
                name: np.ascontiguousarray(smile[:, number])
                for number, name in enumerate(SMILE_PARAMETERS)
            },
        }

    def _slots(self, from_us: int | None, until_us: int) -> NDArray[np.intp]:
        capacity = len(self._at_us)
        first = max(0, self._recorded - capacity)
        slots = np.arange(first, self._recorded) % capacity
        at_us = self._at_us[slots]
        start = 0
        if from_us is not None:
            # The step in force at the start began before it.
            start = max(0, int(np.searchsorted(at_us, from_us, side="right")) - 1)
        return slots[start : int(np.searchsorted(at_us, until_us, side="right"))]


class Truth:
    """What the market priced with, read from the ``data`` of ``GET /sim/truth``.

    Attributes:
        at_us: When each step came into force, µs since the Unix epoch, shape ``(steps,)``.
        until_us: The instant up to which the last step is known to have been in force.
        instrument_token: The options it knows, ascending, shape ``(options,)``.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        expiries = data["expiries"]
        self.at_us = np.array(data["at_us"], np.int64)
        self.until_us = int(data["until_us"])
        shape = (len(self.at_us), len(expiries))
        self._forward = np.array(data["forward"], np.float64).reshape(shape)
        self._smile = np.array(
            [np.array(data[name], np.float64).reshape(shape) for name in SMILE_PARAMETERS]
        )
        token = np.concatenate([np.array(each["instrument_token"], np.int64) for each in expiries])
        strike = np.concatenate([np.array(each["strike"], np.float64) for each in expiries])
        sizes = [len(each["instrument_token"]) for each in expiries]
        curve = np.repeat(np.arange(len(expiries)), sizes)
        order = np.argsort(token)
        self.instrument_token = token[order]
        self._strike = strike[order]
        self._curve = curve[order]

    def forward(
        self, instrument_token: NDArray[np.integer[Any]], at_us: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the forward of each option's expiry in force at each instant, rupees.

        Args:
            instrument_token: Options, shape ``(n,)``.
            at_us: Instants, µs since the Unix epoch, shape ``(n,)``.

        Returns:
            Shape ``(n,)``; NaN for what is no option and for instants outside the history.
        """
        row, step, known = self._found(instrument_token, at_us)
        forward = np.full(len(row), np.nan)
        forward[known] = self._forward[step[known], self._curve[row[known]]]
        return forward

    def volatility(
        self, instrument_token: NDArray[np.integer[Any]], at_us: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return each option's volatility in force at each instant, a fraction per year.

        Args:
            instrument_token: Options, shape ``(n,)``.
            at_us: Instants, µs since the Unix epoch, shape ``(n,)``.

        Returns:
            Shape ``(n,)``; NaN for what is no option and for instants outside the history.
        """
        row, step, known = self._found(instrument_token, at_us)
        volatility = np.full(len(row), np.nan)
        curve = self._curve[row[known]]
        forward = self._forward[step[known], curve]
        smile = self._smile[:, step[known], curve]
        volatility[known] = volatility_per_year(smile, forward, self._strike[row[known]])
        return volatility

    def _found(
        self, instrument_token: NDArray[np.integer[Any]], at_us: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """Return each query's option row and step, and whether both exist."""
        token = np.asarray(instrument_token, np.int64)
        instant = np.asarray(at_us, np.int64)
        row = np.searchsorted(self.instrument_token, token)
        row = np.minimum(row, len(self.instrument_token) - 1)
        step = np.searchsorted(self.at_us, instant, side="right") - 1
        is_option = self.instrument_token[row] == token
        return row, step, is_option & (step >= 0) & (instant <= self.until_us)


def _expiries(catalogue: Catalogue) -> list[dict[str, object]]:
    option = np.flatnonzero(catalogue.is_option)
    members = [option[catalogue.curve[option] == at] for at in range(len(catalogue.curves))]
    return [
        {
            "underlying": curve.name,
            "exchange": curve.exchange,
            "expiry": curve.expiry.isoformat(),
            "expiry_us": curve.expiry_ns // NS_PER_US,
            "instrument_token": catalogue.instrument_token[rows].tolist(),
            "strike": catalogue.strike_inr[rows].tolist(),
        }
        for curve, rows in zip(catalogue.curves, members, strict=True)
    ]
