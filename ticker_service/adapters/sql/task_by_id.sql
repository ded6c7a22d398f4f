-- One task.
SELECT * FROM order_task WHERE task_id = %(task_id)s
