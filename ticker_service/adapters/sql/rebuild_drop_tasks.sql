-- Take out rows of tasks that no event tells of.
DELETE FROM order_task AS task
WHERE (%(account)s::text IS NULL OR task.account = %(account)s)
    AND NOT EXISTS (SELECT FROM shadow_task AS shadow WHERE shadow.task_id = task.task_id)
