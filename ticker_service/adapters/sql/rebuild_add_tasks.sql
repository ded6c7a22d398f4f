-- Put in tasks that have events and no row.
INSERT INTO order_task
SELECT shadow.* FROM shadow_task AS shadow
WHERE NOT EXISTS (SELECT FROM order_task AS task WHERE task.task_id = shadow.task_id)
