-- The tasks of one instruction on all accounts that it has been on, the newest last.
SELECT * FROM order_task
WHERE task_id = %(lineage_id)s OR origin_task_id = %(lineage_id)s
ORDER BY hop
