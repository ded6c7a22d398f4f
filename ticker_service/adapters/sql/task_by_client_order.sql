-- The tasks of the order that a principal calls so, on every account it has been on, the newest
-- last; the second condition on its kind is that of the index.
SELECT * FROM order_task
WHERE principal = %(principal)s AND client_order_id = %(client_order_id)s AND kind = 'PLACE'
    AND kind NOT IN ('MODIFY', 'CANCEL')
ORDER BY hop
