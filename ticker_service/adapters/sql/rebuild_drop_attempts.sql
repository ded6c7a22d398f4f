-- Take out rows of attempts that no intent tells of.
DELETE FROM order_attempt AS attempt
WHERE (
        %(account)s::text IS NULL
        OR attempt.account = %(account)s
        OR EXISTS (SELECT FROM shadow_task AS shadow WHERE shadow.task_id = attempt.task_id)
    )
    AND NOT EXISTS (
        SELECT FROM shadow_attempt AS shadow
        WHERE shadow.task_id = attempt.task_id AND shadow.attempt = attempt.attempt
    )
