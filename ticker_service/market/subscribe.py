"""What to subscribe: the underlyings themselves and a window of strikes round the money. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ticker_service.config import CONNECTIONS_MAX, TOKENS_PER_CONNECTION_MAX
from ticker_service.domain.universe import ABSENT
from ticker_service.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ticker_service.config import SubscriptionConfig
    from ticker_service.domain.universe import Universe


def plan(
    universe: Universe, centres: Mapping[int, float], config: SubscriptionConfig
) -> NDArray[np.bool_]:
    """Return which universe rows are wanted.

    Args:
        universe: What may be subscribed.
        centres: The price each book's window is centred on, rupees, by book number; a book that
            is missing has no window yet, only its underlying and futures.
        config: Width of the window.

    Returns:
        Mask of shape ``(n,)``. Everything that is not an option is always wanted, and so is what
        the settings name one by one.
    """
    wanted = ~universe.is_option | universe.is_named
    for expiry in universe.expiries:
        if expiry.book not in centres:
            continue
        at_the_money = int(np.argmin(np.abs(expiry.strike - centres[expiry.book])))
        first = max(at_the_money - config.strikes_each_side, 0)
        strikes = slice(first, at_the_money + config.strikes_each_side + 1)
        rows = np.concatenate([expiry.call_row[strikes], expiry.put_row[strikes]])
        wanted[rows[rows != ABSENT]] = True
    return wanted


def check_fits(universe: Universe, config: SubscriptionConfig) -> None:
    """Refuse settings whose widest window one api_key cannot carry.

    Raises:
        ConfigurationError: More instruments than Kite's connections hold.
    """
    always = int(np.count_nonzero(~universe.is_option | universe.is_named))
    strikes_max = 2 * config.strikes_each_side + 1
    options = sum(2 * min(strikes_max, len(expiry.strike)) for expiry in universe.expiries)
    limit = CONNECTIONS_MAX * TOKENS_PER_CONNECTION_MAX
    if always + options > limit:
        raise ConfigurationError(
            f"the subscription needs {always + options} instruments, one api_key carries {limit}: "
            f"lower strikes_each_side={config.strikes_each_side}, "
            f"expiries={config.expiries_max}, or name fewer underlyings"
        )
