-- An account's jobs that have something left to do, as they were admitted.
SELECT * FROM order_task
WHERE account = %(account)s AND state IN ('RUNNING', 'STOPPING')
ORDER BY created_at, task_id
LIMIT %(limit)s
