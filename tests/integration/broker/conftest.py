"""Certificates for a broker on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hostile_broker import Identity, identity

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def own_identity(tmp_path: Path) -> Identity:
    """A certificate for 127.0.0.1 that nobody trusts unless told to."""
    return identity(tmp_path, host="127.0.0.1")
