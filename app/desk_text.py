"""What the dead-letter desk answers, as text for a terminal of any width. Pure.

For somebody who was woken up: the state first, then what to know, then what to type. Texts of the
broker and of callers may hold anything; what would move a cursor does not reach the terminal.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from typing import Any, Final

from ticker_service.constants import NS_PER_S, NS_PER_US, SECONDS_PER_DAY
from ticker_service.domain.session import from_instant_ns

Answer = Mapping[str, Any]

WIDTH_MIN: Final = 60
WIDTH_MAX: Final = 120
LABEL: Final = 11
ID_CHARACTERS: Final = 8
LOOKS_SHOWN_MAX: Final = 5
FAILED: Final = frozenset({"REJECTED", "REJECTED_LOCAL", "EXPIRED", "NOT_PLACED"})
_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600


def letters(answer: Answer, *, now_ns: int) -> str:
    """Return the list: a block for each order, then the orphans, then what to type."""
    found, orphans = answer["letters"], answer["orphans"]
    failed = sum(each["task"]["state"] in FAILED for each in found)
    counts = f"{len(found) - failed} undecided, {failed} failed today, {len(orphans)} orphaned"
    lines = [f"{counts} ({_clock(now_ns // NS_PER_US)} IST)"]
    for each in found:
        lines += ["", *_head(each, now_ns=now_ns)]
        lines += _field("by itself", _happens(each))
        if each["actions"]:
            lines += _field("you may", ", ".join(_may(each)))
    for row in orphans:
        lines += ["", *_line(f"ORPHAN  {row['order_id']}  {row['account']}")]
        lines += _field("the order", _row(row))
        lines += _field("why", "it has a tag of ours, and the journal does not know it")
        verb = f"adopt-orphan {row['order_id']} --account {row['account']}"
        lines += [*_field("you may", ""), _command(verb)]
    if found:
        name = found[0]["task"]["client_order_id"]
        lines += ["", f"Explain one: ticker-service desk show {_plain(name)}"]
    return "\n".join(lines)


def case(answer: Answer, *, now_ns: int) -> str:
    """Return one order with its evidence, in the order in which a person asks for it."""
    task = answer["task"]
    lines = [*_head(answer, now_ns=now_ns), *_field("task", task["task_id"])]
    if task["order_id"]:
        lines += _field("at broker", f"order {task['order_id']}, {task['broker_status'] or '?'}")
    if task["filled_quantity"]:
        lines += _field("filled", f"{task['filled_quantity']} at {task['average_price']}")
    for each in answer["attempts"]:
        lines += _field(f"attempt {each['attempt']}", _attempt(each))
    if not answer["attempts"]:
        lines += _field("attempts", "none: it was never sent")
    lines += _looks(answer)
    lines += _alike(answer)
    lines += _field("by itself", _happens(answer))
    if answer["resent_as"]:
        new = answer["resent_as"]
        lines += _field("resent as", f"{new['client_order_id']}, which is {new['state']}")
    lines += _verbs(answer)
    lines += _field("history", f"{len(answer['events'])} events, times are IST")
    lines += [f"  {_event(event)}" for event in answer["events"]]
    lines += _field("audit", "" if answer["audit"] else "nobody has decided anything")
    for line in answer["audit"]:
        lines += _line(f"{_clock(line['at_us'])} {line['by_whom']}: {_what(line)}", indent=2)
        lines += _line(f"why: {line['why']}", indent=4)
    return "\n".join(lines)


def decided(task: Answer) -> str:
    """Return one line for a decision that was taken."""
    at_broker = f", the broker's order {task['order_id']}" if task["order_id"] else ""
    return _plain(
        f"{task['client_order_id']} on {task['account']} is {task['state']}{at_broker}"
        f" (task {task['task_id']})"
    )


def _head(answer: Answer, *, now_ns: int) -> list[str]:
    task = answer["task"]
    age_s = max(now_ns // NS_PER_US - task["updated_at_us"], 0) * NS_PER_US // NS_PER_S
    kind = "" if task["kind"] == "PLACE" else f"{task['kind']} of "
    lines = _line(
        f"{task['state']}  {kind}{task['client_order_id']}  {task['account']}  for {_age(age_s)}"
        f"  task {task['task_id'][:ID_CHARACTERS]}"
    )
    asked = f"{_asked(task['order'])} by {answer['principal']} at {_clock(task['created_at_us'])}"
    lines += _field("asked", asked)
    why = ": ".join(word for word in (task["code"], task["reason"]) if word)
    return lines + (_field("why", why) if why else [])


def _may(answer: Answer) -> list[str]:
    """Return what may be done, a resend with the name that it would have."""
    names = {"resend": f"resend (as {answer['resend_name']})"}
    return [names.get(action, action) for action in answer["actions"]]


def _happens(answer: Answer) -> str:
    until_us = answer["not_before_us"]
    when = f"; settles not before {_clock(until_us)} IST" if until_us is not None else ""
    return f"{answer['happens']}{when}"


def _attempt(each: Answer) -> str:
    ended_us = each["ended_at_us"]
    end = "no outcome recorded" if ended_us is None else f"{_clock(ended_us)} {each['outcome']}"
    status = f", HTTP {each['http_status']}" if each["http_status"] else ""
    told = f" ({each['message']})" if each["message"] else ""
    return f"tag {each['tag']}, sent {_clock(each['intent_at_us'])}, {end}{status}{told}"


def _looks(answer: Answer) -> list[str]:
    looks = answer["looks"]
    if not looks:
        return _field("books", "none read since, by this run of the daemon")
    whole = sum(not look["lacking"] for look in looks)
    lines = _field("books", f"{len(looks)} read since, {whole} of them whole; the newest:")
    for look in looks[-LOOKS_SHOWN_MAX:]:
        state = f"lacks {look['lacking']} known orders" if look["lacking"] else "whole"
        lines += _line(f"{_clock(look['began_us'])}  {look['rows']} orders, {state}", indent=2)
    return lines


def _alike(answer: Answer) -> list[str]:
    alike = answer["alike"]
    if alike is None:
        return _field("look alike", f"the book cannot be read now: {answer['unread']}")
    if not alike:
        return _field("look alike", "no order in the broker's book, read just now")
    lines = _field("look alike", f"{len(alike)} in the broker's book, read just now:")
    for row in alike:
        lines += _line(f"{row['order_id']}  {_row(row)}", indent=2)
    return lines


def _verbs(answer: Answer) -> list[str]:
    """Return what to type for each action, whole, so that it can be copied."""
    name = answer["task"]["task_id"][:ID_CHARACTERS]
    alike = answer["alike"] or []
    order_id = alike[0]["order_id"] if len(alike) == 1 else "ORDER_ID"
    words = {
        "adopt": f"adopt {name} {order_id}",
        "close": f"close {name} FILLED --filled UNITS --price RUPEES",
        "resend": f"resend {name} --as {answer['resend_name']}",
    }
    lines = _field("you may", "" if answer["actions"] else "do nothing here")
    return lines + [_command(words.get(verb, f"{verb} {name}")) for verb in answer["actions"]]


def _command(verb: str) -> str:
    """Return what to type in one line, however narrow the terminal: it is to be copied."""
    return _plain(f"  ticker-service desk {verb} --why '…'")


def _event(event: Answer) -> str:
    code = event["data"].get("reason_code") or ""
    return _plain(
        f"{event['version']:>3}  {_clock(event['at_us'])}  {event['event']} {event['state']} {code}"
    ).rstrip()


def _what(line: Answer) -> str:
    facts = line["facts"]
    told = {
        "adopted_by_person": f"it is order {facts.get('order_id')}",
        "marked_not_placed": "it is not at the broker",
        "closed_by_person": f"it ended as {line['state']}, which was read at the broker",
        "orphan_adopted": f"order {facts.get('order_id')} is ours, although the journal lost it",
        "received": f"sent again, instead of {facts.get('resend_of_order')}",
    }
    forced = ", forced" if facts.get("forced") else ""
    against = f" against: {facts['against']}" if facts.get("against") else ""
    return f"{told.get(line['event'], line['event'])}{forced}{against}"


def _asked(order: Mapping[str, str]) -> str:
    if "tradingsymbol" not in order:
        told = " ".join(f"{name} {value}" for name, value in order.items())
        return told or "the cancel"
    words = [order["transaction_type"], order["quantity"]]
    words += [f"{order['exchange']}:{order['tradingsymbol']}", order["order_type"]]
    words += [order[name] for name in ("price", "product") if name in order]
    if "trigger_price" in order:
        words.append(f"trigger {order['trigger_price']}")
    return " ".join(words)


def _row(row: Answer) -> str:
    tags = f"tag {', '.join(row['tags'])}" if row["tags"] else "no tag"
    return (
        f"{row['status']} {row['transaction_type']} {row['quantity']} "
        f"{row['exchange']}:{row['tradingsymbol']} {row['order_type']} {row['price']} "
        f"{row['product']}, filled {row['filled_quantity']}, "
        f"placed {row['order_timestamp'] or '?'}, {tags}"
    )


def _field(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        _plain(f"{label:<{LABEL}}{text}"),
        _width(),
        initial_indent="  ",
        subsequent_indent=" " * (LABEL + 2),
        break_on_hyphens=False,
    )


def _line(text: str, *, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        _plain(text),
        _width(),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        drop_whitespace=True,
        break_on_hyphens=False,
    )


def _width() -> int:
    return min(max(shutil.get_terminal_size().columns, WIDTH_MIN), WIDTH_MAX)


def _plain(text: str) -> str:
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _clock(at_us: int) -> str:
    return f"{from_instant_ns(at_us * NS_PER_US):%H:%M:%S}"


def _age(age_s: int) -> str:
    for limit_s, unit_s, unit in ((2 * _MINUTE_S, 1, "s"), (2 * _HOUR_S, _MINUTE_S, "min")):
        if age_s < limit_s:
            return f"{age_s // unit_s} {unit}"
    day_s = SECONDS_PER_DAY
    return f"{age_s // _HOUR_S} h" if age_s < 2 * day_s else f"{age_s // day_s} days"
