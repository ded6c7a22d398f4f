"""Option arithmetic on columns: Black-76, volatility, Greeks, forwards; nothing that waits.

The steps of a solution, in order (``kernel.py`` calls them, ``docs/pricing.md`` derives them):

1. ``normalise``    market terms to log-moneyness and time value, and each row's status
2. ``first_guess``  an explicit total volatility, good to 3e-4
3. ``householder``  one step of order four, on Mills ratios (``mills``), to the last digit
4. ``wide``         the same with a guard, for rows that the first guess does not cover
5. ``greeks``       the five Greeks from values already at hand; ``spot`` restates them

``evaluation`` goes the other way, from volatility to price; ``forward`` finds what to price on;
``smile`` draws one curve (``svi``) through an expiry's volatilities and says what speaks against it
(``arbitrage``).
"""

from ticker_service.pricing.forward import (
    ParityForward,
    ParityForwards,
    carry_forward,
    parity_forward,
    parity_forwards,
)
from ticker_service.pricing.kernel import EVALUATE_ROWS, SOLVE_ROWS, PricingKernel
from ticker_service.pricing.smile import (
    SMILE_STATUS_WIRE_NAMES,
    Smiles,
    SmileStatus,
    fit_smiles,
)
from ticker_service.pricing.spot import spot_greeks
from ticker_service.pricing.status import STATUS_WIRE_NAMES, PriceStatus

__all__ = [
    "EVALUATE_ROWS",
    "SMILE_STATUS_WIRE_NAMES",
    "SOLVE_ROWS",
    "STATUS_WIRE_NAMES",
    "ParityForward",
    "ParityForwards",
    "PriceStatus",
    "PricingKernel",
    "SmileStatus",
    "Smiles",
    "carry_forward",
    "fit_smiles",
    "parity_forward",
    "parity_forwards",
    "spot_greeks",
]
