-- What of an account may need a person, each part newest first: what is in doubt, whatever its age,
-- what no evidence settled, and behind them what failed of late, which never takes their room. Each
-- part has the condition of one partial index, and a limit of its own.
SELECT * FROM (
    (SELECT * FROM order_task
    WHERE account = %(account)s AND state IN ('SENDING', 'UNKNOWN') AND state <> 'SENDING'
    ORDER BY created_at DESC, task_id DESC
    LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM order_task
    WHERE account = %(account)s AND created_at >= %(created_since)s
        AND state IN ('MANUAL', 'REJECTED', 'REJECTED_LOCAL', 'EXPIRED', 'NOT_PLACED')
        AND state = 'MANUAL'
    ORDER BY created_at DESC, task_id DESC
    LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM order_task
    WHERE account = %(account)s AND created_at >= %(created_since)s
        AND state IN ('MANUAL', 'REJECTED', 'REJECTED_LOCAL', 'EXPIRED', 'NOT_PLACED')
        AND state <> 'MANUAL' AND updated_at >= %(failed_since)s
    ORDER BY created_at DESC, task_id DESC
    LIMIT %(limit)s)
) AS letter
ORDER BY state IN ('UNKNOWN', 'MANUAL') DESC, created_at DESC, task_id DESC
LIMIT %(limit)s
