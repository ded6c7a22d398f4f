"""The only place that picks real adapters and hands them to the engine.

``market`` and ``orders`` put the halves together and ``dials`` shows what they do; ``verbs`` is for
the command line and ``checks`` for the doctor.
"""

from ticker_service.assembly.checks import (
    look_at_account,
    look_at_clock,
    look_at_egress,
    look_at_halts,
    look_at_instruments,
    look_at_journal,
    look_at_newest_events,
    look_at_redis,
)
from ticker_service.assembly.market import assemble, column_parts, open_recordings, replay_publisher
from ticker_service.assembly.orders import assemble_orders
from ticker_service.assembly.verbs import (
    is_redis_url,
    journalled_kill_switches,
    kill_file,
    kite_app,
    lift_losses,
    log_in_at_kite,
    migrate_journal,
    passphrase_credential,
    rebuild_journal,
    release_kill_switches,
    resume_account,
    risk_history,
    standing_halts,
    token_store,
    verify_journal,
    watch_journal,
)

__all__ = [
    "assemble",
    "assemble_orders",
    "column_parts",
    "is_redis_url",
    "journalled_kill_switches",
    "kill_file",
    "kite_app",
    "lift_losses",
    "log_in_at_kite",
    "look_at_account",
    "look_at_clock",
    "look_at_egress",
    "look_at_halts",
    "look_at_instruments",
    "look_at_journal",
    "look_at_newest_events",
    "look_at_redis",
    "migrate_journal",
    "open_recordings",
    "passphrase_credential",
    "rebuild_journal",
    "release_kill_switches",
    "replay_publisher",
    "resume_account",
    "risk_history",
    "standing_halts",
    "token_store",
    "verify_journal",
    "watch_journal",
]
