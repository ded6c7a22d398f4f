"""Which options have to go out again although they had no packet: what moved visibly.

Part of the publish step. Goal: whoever keeps each option's last row has numbers of now. Sending a
row whenever its forward moves by a price step does not do: that is nearly the whole chain four
times a second, most of it with the same Greeks to every digit that anybody reads. So what went out
is kept, and a row goes again when one of its numbers has left a stated tolerance, or a word has
become another. ``docs/wire.md`` promises these tolerances as the worst error of a kept row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ticker_service.domain.universe import Terms
    from ticker_service.market.price import Priced

FORWARD_RATIO: Final = 0.0002
"""Five points of a NIFTY at 24,000."""
VOLATILITY_STEP: Final = 0.0005
"""Half of the tenth of a point that is shown; or what a price step is worth, if that is more."""
DELTA_STEP: Final = 0.005
"""Half of the hundredth that is shown."""
GAMMA_MOVE_RATIO: Final = 0.01
"""A gamma is off when it makes delta miss by ``DELTA_STEP`` over so large a move of the forward."""
GREEK_RATIO: Final = 0.01
"""Vega, theta and rho: of themselves, or a price step, if that is more. Gamma likewise."""
VOL_POINT: Final = 0.01

_NUMBERS: Final = ("forward", "implied_volatility", "delta", "gamma", "theta", "vega", "rho")
_WORDS: Final = ("iv_status", "iv_leg", "forward_source", "own_iv_status")
_NOTHING_SENT: Final = 255


class SentRows:
    """The numbers and words of every universe row as they last went out."""

    def __init__(self, rows: int) -> None:
        self._numbers = {name: np.full(rows, np.nan) for name in _NUMBERS}
        self._words = {name: np.full(rows, _NOTHING_SENT, np.uint8) for name in _WORDS}

    def keep(self, rows: NDArray[np.intp], priced: Priced) -> None:
        """Remember what goes out; the rows of ``priced`` belong to ``rows``, shape ``(n,)``."""
        for name, column in (*self._numbers.items(), *self._words.items()):
            column[rows] = getattr(priced, name)

    def forget(self, rows: NDArray[np.intp]) -> None:
        """Drop what was sent of instruments that are no longer subscribed."""
        for column in self._numbers.values():
            column[rows] = np.nan
        for column in self._words.values():
            column[rows] = _NOTHING_SENT

    def has_moved(self, terms: Terms, priced: Priced) -> NDArray[np.bool_]:
        """Return which options differ visibly from what went out.

        Args:
            terms: The rows, shape ``(n,)``.
            priced: What would go out now, same rows.
        """
        moved = np.zeros(len(terms), np.bool_)
        for name, words in self._words.items():
            moved |= words[terms.rows] != getattr(priced, name)
        for name, tolerance in _tolerances(terms, priced).items():
            sent, now = self._numbers[name][terms.rows], getattr(priced, name)
            # A number that came or went compares False here, and so does NaN with NaN.
            moved |= ~(np.abs(now - sent) < tolerance) & ~(np.isnan(now) & np.isnan(sent))
        return moved & terms.is_option


def _tolerances(terms: Terms, priced: Priced) -> dict[str, NDArray[np.float64]]:
    """Return by how much each number may differ from what was sent, shape ``(n,)`` each."""
    step, forward = terms.price_step, priced.forward
    in_delta = np.full(len(terms), DELTA_STEP)
    with np.errstate(all="ignore"):
        return {
            "forward": FORWARD_RATIO * forward,
            "implied_volatility": np.fmax(VOLATILITY_STEP, VOL_POINT * step / priced.vega),
            "delta": in_delta,
            "gamma": np.fmax(
                in_delta / (GAMMA_MOVE_RATIO * forward), GREEK_RATIO * np.abs(priced.gamma)
            ),
            **{
                name: np.fmax(step, GREEK_RATIO * np.abs(getattr(priced, name)))
                for name in ("theta", "vega", "rho")
            },
        }
