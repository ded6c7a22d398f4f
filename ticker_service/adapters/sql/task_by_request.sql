-- The tasks that a principal's idempotency key names: the first, and those that went on for it on
-- other accounts, the newest last.
SELECT * FROM order_task
WHERE principal = %(principal)s AND request_id = %(request_id)s
ORDER BY hop
