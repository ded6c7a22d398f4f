-- The accounts whose writer would have to stand still while some tasks are made anew.
WITH wanted AS (
    SELECT task_id FROM order_event WHERE %(account)s::text IS NULL OR account = %(account)s
    UNION
    SELECT task_id FROM order_task WHERE %(account)s::text IS NULL OR account = %(account)s
    UNION
    SELECT task_id FROM order_attempt WHERE %(account)s::text IS NULL OR account = %(account)s
)
SELECT account FROM order_event JOIN wanted USING (task_id)
UNION
SELECT account FROM order_task JOIN wanted USING (task_id)
ORDER BY account
