-- The job that a principal calls so.
SELECT * FROM order_task
WHERE principal = %(principal)s AND client_order_id = %(client_order_id)s
    AND kind NOT IN ('MODIFY', 'CANCEL') AND kind <> 'PLACE'
