-- A person may say of what no evidence settled that it was not placed, and asks for all such.

INSERT INTO order_transition (from_state, to_state) VALUES ('MANUAL', 'NOT_PLACED');

CREATE INDEX order_task_dead_letter ON order_task (account, created_at)
    WHERE state IN ('MANUAL', 'REJECTED', 'REJECTED_LOCAL', 'EXPIRED', 'NOT_PLACED');
COMMENT ON INDEX order_task_dead_letter IS
    'Looking for what failed among all that went well is impossible.';
