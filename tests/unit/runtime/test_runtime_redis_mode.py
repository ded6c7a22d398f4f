"""A server's greeting says whether it is one of a cluster, in whatever form the client gives it."""

from __future__ import annotations

import pytest

from ticker_service.runtime.redis_mode import is_cluster_mode


@pytest.mark.parametrize(
    ("hello", "is_cluster"),
    [
        ({b"server": b"valkey", b"mode": b"cluster"}, True),
        ({"server": "redis", "mode": "cluster"}, True),
        ([b"server", b"redis", b"mode", b"cluster", b"role", b"master"], True),
        ({b"server": b"valkey", b"mode": b"standalone"}, False),
        ([b"mode", b"sentinel"], False),
        ({}, False),
        (None, False),
        (b"OK", False),
    ],
)
def test_only_a_server_that_says_so_is_one_of_a_cluster(hello: object, *, is_cluster: bool) -> None:
    assert is_cluster_mode(hello) is is_cluster
