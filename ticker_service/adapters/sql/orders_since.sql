-- The newest orders of an account that were admitted since an instant, newest first.
SELECT task_id, principal, client_order_id, job_id, body, created_at
FROM order_task
WHERE account = %(account)s AND kind = 'PLACE' AND created_at >= %(since)s
ORDER BY created_at DESC
LIMIT %(limit)s
