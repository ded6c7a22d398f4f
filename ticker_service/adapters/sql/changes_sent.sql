-- How many changes of one order the broker may have counted; the condition is the partial index's.
SELECT count(*) AS sent
FROM order_task AS task
JOIN order_attempt AS attempt ON attempt.task_id = task.task_id
WHERE task.target_task_id = %(target_task_id)s AND task.kind = 'MODIFY'
    AND COALESCE(attempt.outcome, '') NOT IN ('NOT_SENT', 'THROTTLED', 'REJECTED_AUTH')
