-- A caller's newest tasks on some accounts.
SELECT * FROM order_task
WHERE principal = %(principal)s AND account = ANY(%(accounts)s::text[])
ORDER BY created_at DESC, task_id DESC
LIMIT %(limit)s
