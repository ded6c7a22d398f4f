"""A real Redis-protocol server per worker, a simulated exchange, and a prefix per test."""

from __future__ import annotations

import signal
import uuid
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis
from running import LIVELY, Exchange, exchange

from app.embedded import EmbeddedRedis, embedded_redis_process

if TYPE_CHECKING:
    from collections.abc import Iterator

# Examples are not timed: the machine may be busy, and a slow example is not a wrong one.
hypothesis.settings.register_profile(
    "shared-machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
)
hypothesis.settings.load_profile("shared-machine")


@pytest.fixture(autouse=True)
def _broken_pipes_stay_errors() -> Iterator[None]:
    """Take back what a filter's command does to its process; here it is the tests' own.

    With the default action a later test that writes to a closed pipe would end the whole run.
    """
    before = signal.getsignal(signal.SIGPIPE)
    yield
    if signal.getsignal(signal.SIGPIPE) is not before:
        signal.signal(signal.SIGPIPE, before)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of this worker's own server, shared by its tests."""
    with embedded_redis_process() as server:
        yield server.url


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A server for one test alone, to be stopped, filled or killed."""
    with embedded_redis_process() as server:
        yield server


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A blocking client of the shared server."""
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture
def prefix() -> str:
    """A channel prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex}:"


@pytest.fixture
def lively_exchange() -> Iterator[Exchange]:
    """A simulator whose market moves, with a user logged in."""
    with exchange(LIVELY) as running:
        yield running
