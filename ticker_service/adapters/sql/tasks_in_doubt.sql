-- An account's instructions whose outcome is not known, oldest first.
-- The condition is that of the partial index, word for word, so that a prepared plan uses it, too.
SELECT * FROM order_task
WHERE account = %(account)s AND state IN ('SENDING', 'UNKNOWN')
    AND (created_at, task_id) > (%(after)s, %(after_id)s)
ORDER BY created_at, task_id
LIMIT %(limit)s
