-- Who takes an account over counts the orders of the last hour by callers and by what they say.

CREATE INDEX order_task_admitted ON order_task (account, created_at) WHERE kind = 'PLACE';
COMMENT ON INDEX order_task_admitted IS
    'To read older orders than those of the last hour for its counts is impossible.';
