-- Put in attempts that have an intent and no row.
INSERT INTO order_attempt
SELECT shadow.* FROM shadow_attempt AS shadow
WHERE NOT EXISTS (
    SELECT FROM order_attempt AS attempt
    WHERE attempt.task_id = shadow.task_id AND attempt.attempt = shadow.attempt
)
