-- What was asked in the name of some jobs, part by part; of one part in the order of its making.
SELECT * FROM order_task
WHERE job_id = ANY(%(job_ids)s::uuid[])
ORDER BY job_id, leg, slice, created_at, task_id
