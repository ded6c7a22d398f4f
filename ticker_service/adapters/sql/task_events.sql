-- The events of one task, oldest first.
SELECT * FROM order_event
WHERE task_id = %(task_id)s
ORDER BY version
LIMIT %(limit)s
