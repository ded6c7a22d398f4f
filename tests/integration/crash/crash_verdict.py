"""The verdict of `exactly_once` on what a run has left behind, as a whole or promise by promise.

The simulation and the chaos loop are judged by the same checks. Every function returns sentences,
one per violation, none when the promise held.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import crash_records
import exactly_once
from crash_parts import PRINCIPAL
from exactly_once import AtBroker, Records, Told
from running import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from crash_parts import Daemon, World

EVENTS_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class BrokerSide:
    """The ledger alone: it can be read while the journal cannot."""

    orders: dict[str, AtBroker]
    places_by_tag: Counter[str]


def broker_side(world: World) -> BrokerSide:
    """Read the ledger."""
    entries = world.ledger()
    posts = crash_records.posts(entries)
    return BrokerSide(
        orders=crash_records.orders(entries),
        places_by_tag=Counter(post.tag for post in posts if post.kind == "PLACE"),
    )


def at_rest(world: World, told: Sequence[Told], daemon: Daemon, *, within_s: float) -> Records:
    """Return the records of one moment at which all is settled; those of now if none comes."""
    found: list[Records] = []

    def is_at_rest() -> bool:
        before = _moment(world)
        if exactly_once.unsettled(crash_records.read(world, told)):
            return False
        if len(world.stream()) < world.last_seq():
            return False
        records = crash_records.read(world, told, daemon)
        # An order that rests goes on being filled, between two of the tables too.
        if exactly_once.unsettled(records) or _moment(world) != before:
            return False
        found.append(records)
        return True

    eventually(is_at_rest, within_s=within_s)
    return found[0] if found else crash_records.read(world, told, daemon)


def _moment(world: World) -> tuple[int, int]:
    return world.last_seq(), len(world.ledger())


def unsettled(world: World) -> list[str]:
    """I3, I5: what journal and broker do not agree on yet; empty when all is quiet."""
    records = crash_records.read(world, has_redis=False)
    return exactly_once.unsettled(records) + exactly_once.left_to_a_person(records)


def never_twice(world: World) -> list[str]:
    """I1, I4, I6: one POST per tag, one order per key, each after its intent, by one writer."""
    records = crash_records.read(world, has_redis=False)
    checks = (
        exactly_once.doubled,
        exactly_once.intent_comes_first,
        exactly_once.never_sent_again_in_doubt,
        exactly_once.refused_means_no_order,
        exactly_once.one_writer_at_a_time,
    )
    return [sentence for check in checks for sentence in check(records)]


def cancels_tell_the_truth(world: World) -> list[str]:
    """I5: a change or cancel that is said to have had no effect had none."""
    return exactly_once.requests_tell_the_truth(crash_records.read(world, has_redis=False))


def nothing_lost(world: World, acknowledged: Mapping[str, str]) -> list[str]:
    """I2, I3: what was acknowledged, by request_id with its task_id, is in the journal."""
    bodies = {task["request_id"]: crash_records.says(task["body"]) for task in world.tasks()}
    told = [
        Told(principal=PRINCIPAL, request_id=key, body=bodies.get(key, ""), task_id=task_id)
        for key, task_id in acknowledged.items()
    ]
    records = crash_records.read(world, told, has_redis=False)
    return exactly_once.acknowledged_is_durable(records) + exactly_once.keys_name_one_task(records)


def events_are_whole(world: World, daemon: Daemon) -> list[str]:
    """I7, I9: legal steps, numbers without a gap; REST and Redis say all of it, and the same."""
    records = at_rest(world, (), daemon, within_s=EVENTS_S)
    found = exactly_once.facts_only_grow(records) + exactly_once.events_reach_their_sinks(records)
    return found + sinks_agree(world, daemon)


def sinks_agree(world: World, daemon: Daemon) -> list[str]:
    """I9: up to what both have, REST and Redis tell events of the same content and number."""
    stream, rest = world.stream(), world.rest_events(daemon)
    found = []
    if [number for number, _ in stream] != [f"{event['account_seq']}-0" for _, event in stream]:
        found.append(f"I9: the stream's ids are {[number for number, _ in stream]}")
    both = min(len(stream), len(rest))
    if [event for _, event in stream][:both] != rest[:both]:
        found.append("I9: Redis and REST tell different events")
    return found
