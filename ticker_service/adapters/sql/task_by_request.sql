-- The task that a principal's idempotency key names.
SELECT * FROM order_task WHERE principal = %(principal)s AND request_id = %(request_id)s
