"""One daemon with order doors for the tests of this folder; each test is a caller of its own."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest
from order_house import House, house

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def home(redis_url: str) -> Iterator[House]:
    """A running daemon whose two accounts take orders."""
    with house(redis_url, f"test-{uuid.uuid4().hex}:") as running:
        yield running
