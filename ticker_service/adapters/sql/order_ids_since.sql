-- The broker's ids of our orders that were sent from an instant on.
SELECT broker_order_id FROM order_task
WHERE account = %(account)s AND kind = 'PLACE' AND broker_order_id IS NOT NULL
    AND intent_at >= %(since)s
