"""What was: candles with implied volatility and Greeks, by the arithmetic of the live path.

The steps, in order (``greeks.py`` calls them):

1. ``alignment``  which rows belong together: the legs of a strike, the options of an instant
2. ``instants``   when a candle's price was the price
3. ``forwards``   what each instant's options are priced on
"""

from ticker_service.history.alignment import OptionCandles, UnderlyingCandles
from ticker_service.history.forwards import ForwardSource
from ticker_service.history.greeks import CandleGreeks, Leg, candle_greeks
from ticker_service.history.instants import CandleInterval, CandlePrice, CandlePricing

__all__ = [
    "CandleGreeks",
    "CandleInterval",
    "CandlePrice",
    "CandlePricing",
    "ForwardSource",
    "Leg",
    "OptionCandles",
    "UnderlyingCandles",
    "candle_greeks",
]
