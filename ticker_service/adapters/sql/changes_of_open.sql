-- The changes that may count for an account's orders that have not ended, oldest first: those that
-- did not fail. Each part has the condition of one partial index, word for word, so that it costs
-- what is open; OFFSET 0 keeps the changes of one order a question of their own.
WITH placed AS MATERIALIZED (
    SELECT task_id FROM order_task
    WHERE account = %(account)s AND state IN ('RECEIVED', 'READY') AND kind = 'PLACE'
    UNION ALL
    SELECT task_id FROM order_task
    WHERE account = %(account)s AND state IN ('SENDING', 'UNKNOWN') AND kind = 'PLACE'
    UNION ALL
    SELECT task_id FROM order_task
    WHERE account = %(account)s AND kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL')
)
SELECT change.* FROM placed
CROSS JOIN LATERAL (
    SELECT * FROM order_task AS about
    WHERE about.target_task_id = placed.task_id AND about.target_task_id IS NOT NULL
    OFFSET 0
) AS change
WHERE change.kind = 'MODIFY'
    AND change.state IN ('RECEIVED', 'READY', 'SENDING', 'UNKNOWN', 'ACKED', 'MANUAL')
    AND (change.created_at, change.task_id) > (%(after)s, %(after_id)s)
ORDER BY change.created_at, change.task_id
LIMIT %(limit)s
