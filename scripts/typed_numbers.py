"""Numbers of the scripts' command lines: one that cannot be right is refused with its rule."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def whole(*, at_least: int) -> Callable[[str], int]:
    """Return what reads a whole number, for the ``type`` of an option."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from {at_least} on")
        return number

    return read


def positive(text: str) -> float:
    """Read a number above zero, likewise."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number above 0")
    return number
