"""Tell from a Redis server's greeting whether it is one of a cluster. Pure."""

from __future__ import annotations


def is_cluster_mode(hello: object) -> bool:
    """Return whether a reply to ``HELLO`` says so.

    Args:
        hello: The reply as the client returns it: a mapping, or a flat list of names and values.
    """
    if isinstance(hello, dict):
        facts = hello
    elif isinstance(hello, list):
        facts = dict(zip(hello[::2], hello[1::2], strict=False))
    else:
        return False
    mode = facts.get(b"mode", facts.get("mode"))
    return mode in {b"cluster", "cluster"}
