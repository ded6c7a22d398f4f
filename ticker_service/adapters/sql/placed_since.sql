-- How many sends of new orders of an account the broker may have counted for its day.
-- An attempt without an outcome may have left: it counts.
SELECT count(*) AS placed
FROM order_attempt AS attempt
JOIN order_task AS task ON task.task_id = attempt.task_id AND task.kind = 'PLACE'
WHERE attempt.account = %(account)s AND attempt.intent_at >= %(since)s
    AND COALESCE(attempt.outcome, '') NOT IN ('NOT_SENT', 'THROTTLED', 'REJECTED_AUTH')
