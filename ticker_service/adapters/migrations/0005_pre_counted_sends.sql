-- The broker limits orders by the day and changes by the order; both are counted from the journal,
-- so that a restart does not begin anew.

CREATE INDEX order_attempt_intent ON order_attempt (account, intent_at);
COMMENT ON INDEX order_attempt_intent IS
    'Counting a day''s sends by reading those of all days is impossible.';

CREATE INDEX order_task_change ON order_task (target_task_id) WHERE kind = 'MODIFY';
COMMENT ON INDEX order_task_change IS
    'Counting the changes of one order by reading those of all orders is impossible.';
