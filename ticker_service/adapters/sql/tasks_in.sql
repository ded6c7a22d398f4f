-- An account's tasks in some states, oldest first.
-- One branch for each partial index, whose condition stands in the text, so that the planner can
-- use it whatever the parameters are; what has ended is looked at only when it is asked for.
SELECT * FROM order_task
WHERE account = %(account)s AND state = ANY(%(states)s::text[])
    AND state IN ('RECEIVED', 'READY')
UNION ALL
SELECT * FROM order_task
WHERE account = %(account)s AND state = ANY(%(states)s::text[])
    AND state IN ('SENDING', 'UNKNOWN')
UNION ALL
SELECT * FROM order_task
WHERE account = %(account)s AND state = ANY(%(states)s::text[])
    AND kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL')
UNION ALL
SELECT * FROM order_task
WHERE account = %(account)s AND state = ANY(%(states)s::text[])
    AND NOT (
        state IN ('RECEIVED', 'READY', 'SENDING', 'UNKNOWN')
        OR (kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL'))
    )
ORDER BY created_at, task_id
