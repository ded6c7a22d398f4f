"""Servers that the crash tests of one worker share, and what one test has to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import crash_parts as parts
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shared() -> Iterator[parts.Servers]:
    """PostgreSQL, Redis and the nursery of daemons."""
    with parts.servers() as running:
        yield running


@pytest.fixture(scope="session")
def one_lane() -> Iterator[parts.Lane]:
    """A simulated broker with a user for every test."""
    with parts.lane(seed=7) as running:
        yield running


@pytest.fixture
def own(shared: parts.Servers, one_lane: parts.Lane) -> Iterator[parts.World]:
    """A database, an account, a user at the broker and a Redis prefix of this test's own."""
    with parts.world(shared, one_lane) as made:
        yield made
        one_lane.lift_faults()
