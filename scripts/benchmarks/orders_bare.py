"""The same transactions and POSTs without a daemon round them: the peer of the suite ``orders``.

Runs the journal's own statements for one order after the other (:data:`STEPS`) on as many
connections as the daemon has, psycopg's plain blocking ones in a thread each, and sends the order
on a kept connection of ``http.client``. It knows nobody: no door, no token, no limit, no second
account to be fair to, nobody who wants to hear of it.
"""

from __future__ import annotations

import http.client
import os
import queue
import sys
import threading
import time
import traceback
import uuid
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode, urlsplit

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from ticker_service.adapters.postgres_rows import task_of, time_of
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.constants import NS_PER_S
from ticker_service.domain import order_events as events
from ticker_service.domain.order import Account, NewTask, TaskKind, TaskUpdate, body_sha256
from ticker_service.domain.order_state import TaskState, first_state
from ticker_service.domain.tag import tag_of
from ticker_service.runtime.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ticker_service.domain.order import OrderTask

INSTALLATION: Final = "B0"
DEADLINE_NS: Final = 30 * NS_PER_S
HTTP_S_MAX: Final = 30.0
PRINCIPAL: Final = "bare"
READY: Final = TaskUpdate(state=TaskState.READY, event="ready")


def main() -> None:
    """Read what to do from standard input, connect, say so; work when told; print what was seen."""
    told = orjson.loads(sys.stdin.buffer.readline())
    work: queue.Queue[tuple[str, str] | None] = queue.Queue()
    epochs: dict[str, int] = {}
    senders = [_Sender(told, work, epochs) for _ in range(told["connections"])]
    epochs |= senders[0].become_writer()
    threads = [threading.Thread(target=each.run) for each in senders]
    for thread in threads:
        thread.start()
    _say("connected")
    sys.stdin.buffer.readline()
    clock = SystemClock()
    cpu_s, began_ns = time.process_time(), clock.monotonic_ns()
    sent_ns: dict[str, int] = {}
    accounts = list(told["tokens"])
    gap_ns = NS_PER_S / told["per_s"] / len(accounts)
    for number in range(told["orders"]):
        early_ns = began_ns + round(number * gap_ns) - clock.monotonic_ns()
        if early_ns > 0:
            time.sleep(early_ns / NS_PER_S)
        name = f"{told['prefix']}-{number}"
        sent_ns[name] = clock.now_ns()
        work.put((accounts[number % len(accounts)], name))
    for _ in threads:
        work.put(None)
    for thread in threads:
        thread.join()
    lasted_s = (clock.monotonic_ns() - began_ns) / NS_PER_S
    _say(
        {
            "sent_ns": sent_ns,
            "lasted_s": lasted_s,
            "cpu_s": time.process_time() - cpu_s,
        }
    )


class _Sender:
    """One connection to the journal, one to the broker, and one order at a time."""

    def __init__(
        self,
        told: Mapping[str, Any],
        work: queue.Queue[tuple[str, str] | None],
        epochs: Mapping[str, int],
    ) -> None:
        self._told = told
        self._work = work
        self._epochs = epochs
        self._clock = SystemClock()
        self._sql = Statements.load()
        self._journal = psycopg.connect(
            told["database_url"], autocommit=True, row_factory=dict_row, prepare_threshold=0
        )
        self._journal.execute("SET synchronous_commit = on")
        root = urlsplit(told["rest_root"])
        self._broker = http.client.HTTPConnection(
            root.hostname or "", root.port, timeout=HTTP_S_MAX
        )
        self._broker.connect()

    def become_writer(self) -> dict[str, int]:
        """Begin an epoch on every account."""
        begun = {}
        for account in self._told["tokens"]:
            found = self._journal.execute(self._sql.next_epoch, {"account": account}).fetchone()
            begun[account] = int(found["epoch"]) if found else 0
        return begun

    def run(self) -> None:
        """Carry orders until there are no more."""
        while (one := self._work.get()) is not None:
            try:
                self._carry(*one)
            except Exception:  # noqa: BLE001 - the root of a thread
                traceback.print_exc()
                os._exit(1)  # the others would wait for what never comes
        self._broker.close()
        self._journal.close()

    def _carry(self, account: str, name: str) -> None:
        """What every order costs, in the order in which it has to happen."""
        task = self._run(self._sql.admit_task, self._admitted(account, name))
        task = self._run(self._sql.record_step, self._step(task, READY))
        tag = tag_of(INSTALLATION, task.task_id, 1)
        task = self._run(self._sql.claim_task, self._claimed(task, tag))
        order_id = self._post(account, {**task.body, "tag": tag})
        acked = TaskUpdate(
            state=TaskState.ACKED,
            event="send_acked",
            broker_order_id=order_id,
            outcome="ACKED",
            http_status=200,
        )
        self._run(self._sql.record_step, self._step(task, acked))

    def _run(self, statement: bytes, parameters: Mapping[str, Any]) -> OrderTask:
        row = self._journal.execute(statement, parameters).fetchone()
        if row is None:
            raise RuntimeError(f"nothing moved: {parameters}")
        return task_of(row)

    def _admitted(self, account: str, name: str) -> dict[str, Any]:
        now_ns = self._clock.now_ns()
        new = NewTask(
            task_id=uuid.uuid4(),
            kind=TaskKind.PLACE,
            account=Account(account),
            principal=PRINCIPAL,
            request_id=name,
            client_order_id=name,
            body=self._told["order"],
            body_sha256=body_sha256(self._told["order"]),
            deadline_ns=now_ns + DEADLINE_NS,
            received_at_ns=now_ns,
        )
        return {
            "task_id": new.task_id,
            "kind": new.kind.value,
            "account": account,
            "principal": new.principal,
            "request_id": name,
            "client_order_id": name,
            "body": Jsonb(dict(new.body), dumps=orjson.dumps),
            "body_sha256": new.body_sha256,
            "deadline": time_of(new.deadline_ns),
            "received_at": time_of(now_ns),
            "target_task_id": None,
            "state": first_state(new.kind).value,
            **dict.fromkeys(("job_id", "leg", "slice", "facts", "account_group")),
            **_event(events.RECEIVED, events.received(new)),
        }

    def _claimed(self, task: OrderTask, tag: str) -> dict[str, Any]:
        now_ns, epoch = self._clock.now_ns(), self._epochs[task.account]
        until_ns = now_ns + DEADLINE_NS
        intent = events.intent_recorded(
            task, tag=tag, writer_epoch=epoch, send_not_after_ns=until_ns
        )
        return {
            "task_id": task.task_id,
            "account": task.account,
            "version": Int8(task.version),
            "writer_epoch": Int8(epoch),
            "tag": tag,
            "now": time_of(now_ns),
            "send_not_after": time_of(until_ns),
            **_event(events.INTENT_RECORDED, intent),
        }

    def _step(self, task: OrderTask, update: TaskUpdate) -> dict[str, Any]:
        return {
            "task_id": task.task_id,
            "account": task.account,
            "version": Int8(task.version),
            "from_state": task.state.value,
            "state": update.state.value,
            "writer_epoch": task.writer_epoch and Int8(task.writer_epoch),
            "broker_order_id": update.broker_order_id,
            "broker_status": None,
            "filled_quantity": None,
            "average_price": None,
            "reason_code": None,
            "reason": None,
            "outcome": update.outcome,
            "http_status": None if update.http_status is None else Int8(update.http_status),
            "facts": None,
            "now": time_of(self._clock.now_ns()),
            **_event(update.event, events.step(task, update)),
        }

    def _post(self, account: str, form: Mapping[str, str]) -> str:
        key, token = self._told["api_key"], self._told["tokens"][account]
        headers = {
            "Authorization": f"token {key}:{token}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self._broker.request("POST", "/orders/regular", urlencode(form), headers)
        answer = orjson.loads(self._broker.getresponse().read())
        order_id: str = answer["data"]["order_id"]
        return order_id


def _event(event: str, data: Mapping[str, object]) -> dict[str, Any]:
    return {
        "event_id": uuid.uuid4(),
        "event": event,
        "event_version": Int8(events.version_of(event)),
        "data": Jsonb(data, dumps=orjson.dumps),
    }


def _say(what: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
