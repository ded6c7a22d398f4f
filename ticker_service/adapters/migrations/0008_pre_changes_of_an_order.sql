-- A caller asks how the changes and cancels of an order ended.

CREATE INDEX order_task_about ON order_task (target_task_id) WHERE target_task_id IS NOT NULL;
COMMENT ON INDEX order_task_about IS
    'Finding what was asked of one order by reading all orders is impossible.';

COMMENT ON INDEX kill_switch_standing IS
    'Asking which switches stand by reading all that were ever thrown is impossible.';
