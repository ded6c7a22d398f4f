-- The changes and cancels of an order, newest first; the condition is the partial index's.
SELECT * FROM order_task
WHERE target_task_id = %(target_task_id)s AND target_task_id IS NOT NULL
ORDER BY created_at DESC, task_id DESC
LIMIT %(limit)s
