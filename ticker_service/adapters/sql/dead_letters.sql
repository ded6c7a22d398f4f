-- What of an account may need a person, newest first: what is in doubt, whatever its age, what no
-- evidence settled, and what failed of late. Each part has the condition of one partial index.
SELECT * FROM (
    SELECT * FROM order_task
    WHERE account = %(account)s AND state IN ('SENDING', 'UNKNOWN') AND state <> 'SENDING'
    UNION ALL
    SELECT * FROM order_task
    WHERE account = %(account)s AND created_at >= %(created_since)s
        AND state IN ('MANUAL', 'REJECTED', 'REJECTED_LOCAL', 'EXPIRED', 'NOT_PLACED')
        AND (state = 'MANUAL' OR updated_at >= %(failed_since)s)
) AS letter
ORDER BY created_at DESC, task_id DESC
LIMIT %(limit)s
