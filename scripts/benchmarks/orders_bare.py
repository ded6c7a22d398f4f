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

from ticker_service.adapters import postgres_parameters as write
from ticker_service.adapters.postgres_rows import task_of
from ticker_service.adapters.postgres_statements import Statements
from ticker_service.constants import NS_PER_S
from ticker_service.domain.order import Account, NewTask, TaskKind, TaskUpdate, body_sha256
from ticker_service.domain.order_state import TaskState
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
        return write.admission(new, event_id=uuid.uuid4())

    def _claimed(self, task: OrderTask, tag: str) -> dict[str, Any]:
        now_ns = self._clock.now_ns()
        return write.intent(
            task,
            tag=tag,
            writer_epoch=self._epochs[task.account],
            now_ns=now_ns,
            send_not_after_ns=now_ns + DEADLINE_NS,
            event_id=uuid.uuid4(),
        )

    def _step(self, task: OrderTask, update: TaskUpdate) -> dict[str, Any]:
        return write.step(
            task,
            update,
            writer_epoch=task.writer_epoch,
            now_ns=self._clock.now_ns(),
            event_id=uuid.uuid4(),
        )

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


def _say(what: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
