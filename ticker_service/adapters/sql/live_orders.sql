-- An account's orders at the broker that have not ended, oldest first; see tasks_in_doubt.sql.
-- A change or a cancel that was acknowledged has ended, so the kind belongs to the condition.
SELECT * FROM order_task
WHERE account = %(account)s AND kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL')
    AND (created_at, task_id) > (%(after)s, %(after_id)s)
ORDER BY created_at, task_id
LIMIT %(limit)s
