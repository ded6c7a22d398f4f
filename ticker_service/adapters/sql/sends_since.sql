-- The sends of an account that may have left, for its rate; what was refused with 429 had left, too.
SELECT task.kind, attempt.intent_at
FROM order_attempt AS attempt
JOIN order_task AS task ON task.task_id = attempt.task_id
WHERE attempt.account = %(account)s AND attempt.intent_at >= %(since)s
    AND COALESCE(attempt.outcome, '') <> 'NOT_SENT'
ORDER BY attempt.intent_at
