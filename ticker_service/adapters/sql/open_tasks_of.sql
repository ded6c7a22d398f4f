-- A caller's newest tasks on some accounts that have not ended.
-- Each part has the condition of one partial index, word for word, so that it costs what is open;
-- the caller is asked for outside, so that no plan begins with all that a caller ever did.
WITH open AS MATERIALIZED (
    SELECT * FROM order_task
    WHERE account = ANY(%(accounts)s::text[]) AND state IN ('RECEIVED', 'READY')
    UNION ALL
    SELECT * FROM order_task
    WHERE account = ANY(%(accounts)s::text[]) AND state IN ('SENDING', 'UNKNOWN')
    UNION ALL
    SELECT * FROM order_task
    WHERE account = ANY(%(accounts)s::text[])
        AND kind = 'PLACE' AND state IN ('ACKED', 'WORKING', 'PARTIAL')
    UNION ALL
    SELECT * FROM order_task
    WHERE account = ANY(%(accounts)s::text[]) AND state IN ('RUNNING', 'STOPPING')
)
SELECT * FROM open
WHERE principal = %(principal)s
ORDER BY created_at DESC, task_id DESC
LIMIT %(limit)s
