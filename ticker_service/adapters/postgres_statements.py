"""The journal's SQL, each statement from its own file in ``adapters/sql``.

Read once, when the journal is made; an installed wheel has the files too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib import resources
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """Every statement the journal sends; a field is the file of its name."""

    admit_task: bytes
    adopt_orphan: bytes
    claim_task: bytes
    record_step: bytes
    task_of_event: bytes
    task_by_id: bytes
    task_by_request: bytes
    task_by_client_order: bytes
    tasks_by_tag: bytes
    unsent_tasks: bytes
    tasks_in_doubt: bytes
    live_orders: bytes
    changes_of_open: bytes
    tasks_by_order_id: bytes
    order_ids_since: bytes
    orders_since: bytes
    placed_since: bytes
    sends_since: bytes
    changes_sent: bytes
    tasks_of: bytes
    open_tasks_of: bytes
    changes_of: bytes
    open_jobs: bytes
    children_of: bytes
    job_by_key: bytes
    dead_letters: bytes
    task_events: bytes
    events_after: bytes
    last_seq: bytes
    delivered_seq: bytes
    set_delivered: bytes
    hand_over_task: bytes
    lineage: bytes
    add_halt: bytes
    newest_halts: bytes
    keep_breaker: bytes
    breakers: bytes
    keep_risk_limits: bytes
    newest_risk_limits: bytes
    keep_risk_denial: bytes
    newest_risk_denials: bytes
    keep_day_best: bytes
    day_best: bytes
    keep_kill_switch: bytes
    kill_switches: bytes
    release_kill_switches: bytes
    lock_account: bytes
    unlock_account: bytes
    next_epoch: bytes
    configure_session: bytes
    verify_accounts: bytes
    verify_gaps: bytes
    verify_epochs: bytes
    verify_tags: bytes
    verify_events: bytes
    verify_tasks: bytes
    verify_attempts: bytes
    rebuild_accounts: bytes
    shadow_task: bytes
    shadow_attempt: bytes
    unguard_task: bytes
    unguard_attempt: bytes
    guard_task: bytes
    guard_attempt: bytes
    rebuild_heads: bytes
    rebuild_drop_attempts: bytes
    rebuild_drop_tasks: bytes
    rebuild_add_tasks: bytes
    rebuild_change_tasks: bytes
    rebuild_add_attempts: bytes
    rebuild_change_attempts: bytes

    @classmethod
    def load(cls) -> Self:
        """Read the files."""
        folder = resources.files("ticker_service.adapters") / "sql"
        return cls(
            **{field.name: (folder / f"{field.name}.sql").read_bytes() for field in fields(cls)}
        )
