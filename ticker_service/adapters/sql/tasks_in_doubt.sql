-- An account's instructions whose outcome is not known, oldest first; see unsent_tasks.sql.
SELECT * FROM order_task
WHERE account = %(account)s AND state IN ('SENDING', 'UNKNOWN')
ORDER BY created_at, task_id
