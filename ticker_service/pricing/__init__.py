"""Option arithmetic on columns: Black-76, volatility, Greeks, forwards; nothing that waits."""

from ticker_service.pricing.forward import ParityForward, carry_forward, parity_forward
from ticker_service.pricing.kernel import PricingKernel
from ticker_service.pricing.status import STATUS_WIRE_NAMES, PriceStatus

__all__ = [
    "STATUS_WIRE_NAMES",
    "ParityForward",
    "PriceStatus",
    "PricingKernel",
    "carry_forward",
    "parity_forward",
]
