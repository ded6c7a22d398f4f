-- Our orders among some of the broker's.
SELECT * FROM order_task
WHERE account = %(account)s AND kind = 'PLACE' AND broker_order_id IS NOT NULL
    AND broker_order_id = ANY(%(order_ids)s::text[])
ORDER BY created_at, task_id
