-- The tasks some of whose sends carried these tags, in this attempt or an earlier one.
SELECT attempt.tag AS attempt_tag, task.* FROM order_attempt AS attempt
JOIN order_task AS task USING (task_id)
WHERE attempt.account = %(account)s AND attempt.tag = ANY(%(tags)s::text[])
