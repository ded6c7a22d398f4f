-- The task one of whose sends carried this tag, in this attempt or an earlier one.
SELECT task.* FROM order_attempt AS attempt
JOIN order_task AS task USING (task_id)
WHERE attempt.account = %(account)s AND attempt.tag = %(tag)s
