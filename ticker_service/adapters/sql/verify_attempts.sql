-- Every attempt of all tasks, or of those that have a part in an account's log after a
-- number, task by task.
-- Tasks of one database compare as bytes, as ids do in the program: three such readings are merged.
SELECT * FROM order_attempt
WHERE %(account)s::text IS NULL OR task_id IN (
    SELECT task_id FROM order_event WHERE account = %(account)s AND account_seq > %(after_seq)s
    UNION
    SELECT task_id FROM order_task WHERE account = %(account)s AND %(after_seq)s = 0
    UNION
    SELECT task_id FROM order_attempt WHERE account = %(account)s AND %(after_seq)s = 0
)
ORDER BY task_id, attempt
