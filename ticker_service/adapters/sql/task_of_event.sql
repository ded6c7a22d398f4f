-- Find the task of an event that may have been committed while the connection was lost.
SELECT task.* FROM order_event AS event
JOIN order_task AS task USING (task_id)
WHERE event.event_id = %(event_id)s
