"""Hold journal, ledger and events to each other: what must be true once all is quiet.

Every check returns sentences, one per violation, none when the promise held. The ledger is what
really happened at the broker; the journal may neither know less nor claim more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from running import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from crash_parts import Daemon, World

UNSENT: Final = frozenset({"RECEIVED", "READY"})
UNDER_WAY: Final = UNSENT | {"SENDING"}
NEVER_AT_BROKER: Final = frozenset({"NOT_PLACED", "EXPIRED", "CANCELLED_LOCAL"})
ENDS_OF_REQUEST: Final = frozenset(
    {"ACKED", "REJECTED", "NOT_PLACED", "REJECTED_LOCAL", "CANCELLED_LOCAL", "EXPIRED"}
)
"""How a cancel may end; ACKED is the broker's yes."""
PAISA: Final = Decimal("0.01")


@dataclass(slots=True)
class AtBroker:
    """One order as the ledger has it."""

    order_id: str
    tag: str
    status: str = ""
    filled_quantity: int = 0
    value_inr: Decimal = Decimal(0)
    cancels_accepted: int = 0

    @property
    def state(self) -> str:
        """The journal's word for it."""
        ended = {"COMPLETE": "FILLED", "CANCELLED": "CANCELLED", "REJECTED": "REJECTED"}
        if self.status in ended:
            return ended[self.status]
        if self.filled_quantity:
            return "PARTIAL"
        return "WORKING" if self.status in {"OPEN", "TRIGGER PENDING"} else "ACKED"

    @property
    def average_price(self) -> Decimal | None:
        return self.value_inr / self.filled_quantity if self.filled_quantity else None


@dataclass(slots=True)
class BrokerSide:
    """The ledger of one run, sorted."""

    places_by_tag: Counter[str] = field(default_factory=Counter)
    refused_tags: set[str] = field(default_factory=set)
    orders: dict[str, AtBroker] = field(default_factory=dict)
    cancels_received: Counter[str] = field(default_factory=Counter)

    def of_tag(self, tag: str) -> list[AtBroker]:
        return [each for each in self.orders.values() if each.tag == tag]


def broker_side(world: World) -> BrokerSide:
    """Read the ledger."""
    side = BrokerSide()
    for entry in world.ledger():
        kind, method, tag, order_id = (
            entry["kind"],
            entry.get("method"),
            entry["tag"] or "",
            entry["order_id"] or "",
        )
        if kind == "received" and method == "place":
            side.places_by_tag[tag] += 1
        elif kind == "received" and method == "cancel":
            side.cancels_received[order_id] += 1
        elif kind == "refused" and method == "place":
            side.refused_tags.add(tag)
        elif kind == "accepted" and method == "place":
            side.orders[order_id] = AtBroker(order_id, tag)
        elif kind == "accepted" and method == "cancel":
            side.orders[order_id].cancels_accepted += 1
        elif kind == "status":
            side.orders[order_id].status = entry["status"]
            side.orders[order_id].filled_quantity = entry["filled_quantity"]
        elif kind == "trade":
            side.orders[order_id].value_inr += Decimal(str(entry["average_price"])) * Decimal(
                entry["quantity"]
            )
    return side


def unsettled(world: World) -> list[str]:
    """Return what journal and broker do not agree on yet; empty when all is quiet."""
    tasks, attempts, side = world.tasks(), world.attempts(), broker_side(world)
    tags = _tags_of(attempts)
    found = []
    for task in tasks:
        if task["kind"] == "PLACE":
            found += _disagreement(task, tags[task["task_id"]], side)
        elif task["state"] not in ENDS_OF_REQUEST:
            found.append(f"{task['kind']} {task['request_id']} is {task['state']}")
    return found


def _disagreement(task: dict[str, Any], tags: list[str], side: BrokerSide) -> list[str]:
    name, state = task["client_order_id"], task["state"]
    orders = [order for tag in tags for order in side.of_tag(tag)]
    if not orders:
        was_refused = any(tag in side.refused_tags for tag in tags)
        if state in NEVER_AT_BROKER or (was_refused and state == "REJECTED"):
            return []
        return [f"{name} is {state}, and the broker has no order of its tags {tags}"]
    order = orders[0]
    is_average_right = (order.average_price is None) == (task["average_price"] is None) and (
        order.average_price is None or abs(order.average_price - task["average_price"]) < PAISA
    )
    journal = (task["broker_order_id"], state, task["filled_quantity"])
    broker = (order.order_id, order.state, order.filled_quantity)
    if journal == broker and is_average_right:
        return []
    prices = f"at {task['average_price']} and {order.average_price}"
    return [f"{name}: journal {journal}, broker {broker}, {prices}"]


def never_twice(world: World) -> list[str]:
    """I1, I4: one POST per tag, one order per key, and no POST without its intent."""
    side, attempts = broker_side(world), world.attempts()
    known = {each["tag"] for each in attempts}
    found = [
        f"tag {tag} was posted {count} times"
        for tag, count in side.places_by_tag.items()
        if count > 1
    ]
    found += [
        f"tag {tag} was posted without an intent" for tag in side.places_by_tag if tag not in known
    ]
    for task in world.tasks():
        if task["kind"] != "PLACE":
            continue
        tags = _tags_of(attempts)[task["task_id"]]
        orders = [order.order_id for tag in tags for order in side.of_tag(tag)]
        if len(orders) > 1:
            found.append(f"{task['client_order_id']} became the orders {orders}")
        reached = [tag for tag in tags if side.places_by_tag[tag]]
        if reached and not orders and not set(reached) <= side.refused_tags:
            found.append(f"{task['client_order_id']} reached the broker and is no order there")
    return found


def cancels_tell_the_truth(world: World) -> list[str]:
    """A cancel that is said to have had no effect had none; each attempt was sent once."""
    side, tasks, attempts = broker_side(world), world.tasks(), world.attempts()
    by_id = {task["task_id"]: task for task in tasks}
    sent = Counter(each["task_id"] for each in attempts)
    allowed: Counter[str] = Counter()
    found = []
    for task in tasks:
        if task["kind"] != "CANCEL":
            continue
        order = side.orders.get(by_id[task["target_task_id"]]["broker_order_id"] or "")
        if order is None:
            continue
        allowed[order.order_id] += sent[task["task_id"]]
        if task["state"] == "NOT_PLACED" and order.status == "CANCELLED":
            found.append(f"{task['request_id']} is {task['state']}, and the order was cancelled")
    found += [
        f"{order_id} got {count} cancels of {allowed[order_id]}"
        for order_id, count in side.cancels_received.items()
        if count > allowed[order_id]
    ]
    return found


def nothing_lost(world: World, acknowledged: Mapping[str, str]) -> list[str]:
    """I3: what was acknowledged, by request_id with its task_id, is in the journal."""
    tasks = {task["request_id"]: str(task["task_id"]) for task in world.tasks()}
    return [
        f"{key} was acknowledged as {task_id}, the journal has {tasks.get(key)}"
        for key, task_id in acknowledged.items()
        if tasks.get(key) != task_id
    ]


def events_are_whole(world: World, daemon: Daemon) -> list[str]:
    """I9: numbers from 1 without a gap, versions of each task too; REST and Redis say the same."""
    seen: list[list[str]] = []

    def has_looked() -> bool:
        found = _events_at_one_moment(world, daemon)
        if found is not None:
            seen.append(found)
        return bool(seen)

    if not eventually(has_looked):
        return [f"Redis has {len(world.stream())} events of {world.last_seq()}"]
    return seen[0]


def _events_at_one_moment(world: World, daemon: Daemon) -> list[str] | None:
    """Compare what was read while nothing was added: an order that rests goes on being filled."""
    seq = world.last_seq()
    rest, stream, tasks = world.rest_events(daemon), world.stream(), world.tasks()
    if world.last_seq() != seq or len(stream) < seq:
        return None
    found = _gaps("REST", rest) + _gaps("Redis", [event for _, event in stream])
    ids = [number for number, _ in stream]
    if ids != [f"{event['account_seq']}-0" for _, event in stream]:
        found.append(f"the stream's ids are {ids}")
    if [event for _, event in stream] != rest or len(rest) != seq:
        found.append(f"Redis has {len(stream)} events, REST {len(rest)} of {seq}, or they differ")
    versions: dict[str, list[int]] = defaultdict(list)
    for event in rest:
        versions[event["task_id"]].append(event["version"])
    found += [
        f"versions of {task_id} are {numbers}"
        for task_id, numbers in versions.items()
        if numbers != list(range(1, len(numbers) + 1))
    ]
    last = {event["task_id"]: (event["version"], event["state"]) for event in rest}
    for task in tasks:
        told = last.get(str(task["task_id"]))
        if told != (task["version"], task["state"]):
            found.append(
                f"{task['request_id']} is {task['state']} at {task['version']}, events say {told}"
            )
    return found


def _gaps(where: str, events: list[dict[str, Any]]) -> list[str]:
    numbers = [event["account_seq"] for event in events]
    if numbers == list(range(1, len(numbers) + 1)):
        return []
    return [f"account_seq on {where} is {numbers}"]


def _tags_of(attempts: list[dict[str, Any]]) -> dict[object, list[str]]:
    tags: dict[object, list[str]] = defaultdict(list)
    for each in sorted(attempts, key=lambda attempt: attempt["attempt"]):
        tags[each["task_id"]].append(each["tag"])
    return tags
